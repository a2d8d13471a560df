"""Rows that count as observations, and how full a window is."""

import numpy as np

from monitoring.drift.window import admit, empty_rows, fill_ratio, usable
from tests.monitoring.worlds import World


def test_fifty_equal_texts_of_one_customer_are_one_observation() -> None:
    admission = admit(["anna"] * 50 + ["ben"], ["where is it"] * 51, {}, 5)
    assert admission.admitted.nonzero()[0].tolist() == [0, 50]


def test_one_customer_counts_a_limited_number_of_times_in_a_window() -> None:
    texts = [f"text {i}" for i in range(10)]
    assert admit(["anna"] * 10, texts, {}, 3).admitted.sum() == 3


def test_without_a_unit_each_text_is_an_observation() -> None:
    admission = admit(["", "", "", ""], ["a", "b", "a", "b"], {}, 1)
    assert admission.admitted.tolist() == [True, True, False, False]


def test_a_unit_named_like_a_text_is_another_observation() -> None:
    assert admit(["", "a"], ["a", "a"], {}, 1).admitted.all()


def test_counted_texts_are_remembered_and_the_argument_stays_unchanged() -> None:
    first = admit(["anna"], ["hello"], {}, 2)
    second = admit(["anna", "anna", "anna"], ["hello", "again", "and again"], first.counted, 2)
    assert second.admitted.tolist() == [False, True, False]
    assert first.counted == {"uanna": frozenset({"hello"})}


def test_rows_in_parts_are_admitted_as_rows_at_once() -> None:
    rng = np.random.default_rng(1)
    units, texts = [f"u{i}" for i in rng.integers(0, 20, 200)], [f"t{i}" for i in rng.integers(0, 9, 200)]
    whole = admit(units, texts, {}, 3).admitted
    first = admit(units[:77], texts[:77], {}, 3)
    second = admit(units[77:], texts[77:], first.counted, 3)
    assert (np.concatenate([first.admitted, second.admitted]) == whole).all()


def test_rows_with_invalid_numbers_are_not_usable() -> None:
    rows = World(1).rows(5)
    rows.probabilities[1] = np.nan
    rows.sketch[2, 0] = np.inf
    rows.probabilities[3] = 0
    assert usable(rows).tolist() == [True, False, False, False, True]
    assert usable(empty_rows(4, 8)).tolist() == []


def test_rows_are_concatenated_in_order() -> None:
    world = World(2)
    first, second = world.rows(3), world.rows(2)
    both = empty_rows(4, 8).concatenate(first).concatenate(second)
    assert both.id.tolist() == ["p0", "p1", "p2", "p3", "p4"]
    assert (both.take(slice(3, None)).sketch == second.sketch).all()


def test_a_window_is_never_more_than_full() -> None:
    assert [fill_ratio(rows, 200) for rows in (0, 50, 200, 900)] == [0, 0.25, 1, 1]
