"""The shipped corpus and time line keep the promises of data/README.md."""

import json
from collections import Counter
from typing import Any

import pytest

from pipeline.data.near_duplicates import find_near_duplicates
from pipeline.data.records import text_id
from pipeline.runtime.text import clean, fold
from tests.conftest import ROOT

Rows = list[dict[str, Any]]
NEW_INTENTS = {"battery_problem", "app_pairing"}


def read(name: str) -> Rows:
    return [json.loads(line) for line in (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus() -> Rows:
    return read("support_desk.jsonl")


@pytest.fixture(scope="module")
def traffic() -> Rows:
    return read("traffic.jsonl")


def words(rows: Rows) -> list[str]:
    return [word for row in rows for word in fold(row["text"]).split()]


def test_the_corpus_has_twenty_intents_and_two_thousand_rows(corpus: Rows) -> None:
    assert len({row["label"] for row in corpus}) == 20
    assert len(corpus) >= 2000


def test_classes_are_uneven_but_none_is_tiny_or_huge(corpus: Rows) -> None:
    sizes = Counter(row["label"] for row in corpus).values()
    assert min(sizes) >= 30
    assert max(sizes) <= 180
    assert max(sizes) >= 3 * min(sizes)


def test_rows_are_clean_texts_with_labels_and_nothing_else(corpus: Rows) -> None:
    assert [row for row in corpus if set(row) != {"text", "label"}] == []
    assert [row for row in corpus if not row["text"] or clean(row["text"]) != row["text"]] == []


def test_no_text_occurs_twice(corpus: Rows) -> None:
    assert len({text_id(row["text"]) for row in corpus}) == len(corpus)


def test_near_duplicates_are_under_one_in_a_hundred(corpus: Rows) -> None:
    pairs = find_near_duplicates([row["text"] for row in corpus], 0.8)
    assert len({index for pair in pairs for index in pair[:2]}) < 0.01 * len(corpus)


def test_no_text_of_the_corpus_is_in_the_time_line(corpus: Rows, traffic: Rows) -> None:
    assert not {fold(row["text"]) for row in corpus} & {fold(row["text"]) for row in traffic}


def test_the_time_line_is_long_complete_and_in_order(traffic: Rows) -> None:
    assert len(traffic) >= 1200
    assert [row for row in traffic if set(row) != {"time", "unit", "text", "label", "phase"} or not all(row.values())] == []
    times = [row["time"] for row in traffic]
    assert times == sorted(times)
    assert {row["phase"] for row in traffic} == {"stable", "drift"}


def test_a_quarter_of_the_time_line_passes_before_the_first_drift(traffic: Rows) -> None:
    assert next(n for n, row in enumerate(traffic) if row["phase"] == "drift") >= len(traffic) / 4


def test_most_of_the_end_of_the_time_line_is_drifted(traffic: Rows) -> None:
    assert sum(row["phase"] == "drift" for row in traffic[-200:]) >= 160


def test_two_intents_are_new_and_occur_only_in_the_drift_phase(corpus: Rows, traffic: Rows) -> None:
    known = {row["label"] for row in corpus}
    assert {row["label"] for row in traffic} - known == NEW_INTENTS
    assert {row["phase"] for row in traffic if row["label"] in NEW_INTENTS} == {"drift"}


@pytest.mark.parametrize("word", ["voltra", "scooter", "p600"])
def test_the_words_of_the_launch_occur_only_in_the_drift_phase(corpus: Rows, traffic: Rows, word: str) -> None:
    stable = [row for row in traffic if row["phase"] == "stable"]
    drifted = [row for row in traffic if row["phase"] == "drift"]
    assert word not in words(corpus)
    assert word not in words(stable)
    assert words(drifted).count(word) >= 10


def test_drift_has_twice_the_unknown_words_of_the_stable_part(corpus: Rows, traffic: Rows) -> None:
    known = set(words(corpus))

    def unknown_share(phase: str) -> float:
        occurring = words([row for row in traffic if row["phase"] == phase])
        return sum(word not in known for word in occurring) / len(occurring)

    assert unknown_share("drift") > 2 * unknown_share("stable")


def test_some_customers_write_again(traffic: Rows) -> None:
    assert len({row["unit"] for row in traffic}) < len(traffic)


def test_the_card_names_every_class_with_its_size(corpus: Rows) -> None:
    card = " ".join((ROOT / "data/README.md").read_text(encoding="utf-8").split())
    sizes = Counter(row["label"] for row in corpus)
    assert [f"{label} {size}" for label, size in sizes.items() if f"{label} {size}" not in card] == []
