"""Test the bench reports: paired ratios, their intervals, rows as JSON, and when a goal is met."""

import json
from pathlib import Path

import numpy as np
import pytest

from evergreen.loop.promises import number
from tests.bench.report import Bar, Ratio, Row, flat, median_interval, paired_ratio, write

FIELDS = ["goal", "what", "value", "unit", "control", "control_value", "ratio", "ratio_low", "ratio_high", "pairs"]


EIGHT = Ratio(8.5, 8.0, 9.0, 5)


def make_row(value: float = 600.0, ratio: Ratio | None = EIGHT) -> Row:
    return Row("S1a", "QPS", value, "requests/s", "FastAPI + torch", 70.0, ratio, 5)


def test_the_ratio_is_the_median_of_the_ratios_of_pairs_and_not_the_ratio_of_medians() -> None:
    ratio = paired_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 8.0])  # pairs: 2, 3, 1; medians: 8 / 3
    assert ratio.median == 2.0
    assert ratio.pairs == 3


def test_noise_that_hits_both_of_a_pair_cancels() -> None:
    noise = np.array([1.0, 0.3, 2.0, 0.7, 1.4])
    assert paired_ratio((8 * noise).tolist(), noise.tolist()) == Ratio(8.0, 8.0, 8.0, 5)


def test_with_five_pairs_the_interval_is_the_whole_range() -> None:
    # a resample's median is the smallest value when 3 of 5 draws are: p = 0.058 > 0.025
    ratio = paired_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 1.0, 5.0)


def test_with_many_pairs_the_interval_covers_the_true_median_at_about_its_nominal_rate() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        _, low, high = median_interval(rng.normal(2.0, 0.5, size=25))
        covered += low <= 2.0 <= high
    assert 0.88 <= covered / 200 <= 0.995


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(2).lognormal(size=9).tolist()
    assert median_interval(values) == median_interval(values)


@pytest.mark.parametrize(
    ("better", "worse"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([float("nan")], [1.0]), ([float("inf")], [1.0])]
)
def test_values_without_a_ratio_are_refused(better: list[float], worse: list[float]) -> None:
    with pytest.raises(ValueError, match=r"pairs|above 0"):
        paired_ratio(better, worse)


def test_a_row_has_the_agreed_fields_in_their_order() -> None:
    assert list(flat(make_row())) == FIELDS


def test_a_missing_number_is_null_and_never_nan(tmp_path: Path) -> None:
    path = write([make_row(value=float("nan"), ratio=None)], tmp_path, "some")
    (row,) = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["value"] is None
    assert row["ratio"] is row["ratio_low"] is row["ratio_high"] is None
    assert list(row) == [*FIELDS, "command", "commit", "date"]


@pytest.mark.parametrize(
    ("bar", "row", "met"),
    [
        (Bar("ratio", at_least=8.0), make_row(), True),
        (Bar("ratio", at_least=8.6), make_row(), False),
        (Bar("ratio", at_least=8.0), make_row(ratio=None), False),
        (Bar("value", at_most=0.0), make_row(value=0.0), True),
        (Bar("value", at_most=0.0), make_row(value=1.0), False),
        (Bar("value", at_most=0.0), make_row(value=float("nan")), False),
    ],
)
def test_a_goal_is_met_by_a_number_on_its_side_of_the_limit(bar: Bar, row: Row, met: bool) -> None:
    assert bar.is_met(row) is met


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (61.27, "61.3"), (999.4, "999"), (12345.6, "12,346"), (0.0, "0")]
)
def test_numbers_are_shown_with_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown
