"""The split: sides depend on content alone, shares hold within binomial bounds, and every class can be tested."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from pipeline.data.records import Example, digest_examples, labels_of, text_id
from pipeline.data.split_sides import side_of
from pipeline.errors import InputError
from pipeline.params import Params, Split
from pipeline.stages.split import Sides, report, split
from tests.conftest import ROOT

HALF = Split(seed=1, rows_a_class="all", val_share=0.2, test_share=0.3, small_classes="refuse")
KEEP = HALF.model_copy(update={"small_classes": "keep"})


def row(text: str, label: str = "a", group: str | None = None) -> Example:
    return Example(id=text_id(text), text=text, label=label, group=group)


def many(label: str, rows: int = 60) -> list[Example]:
    return [row(f"{label} number {n}", label) for n in range(rows)]


def side_by_id(sides: Sides) -> dict[str, str]:
    """Return the side of each row by id."""
    return {example.id: name for name in ("train", "val", "test") for example in getattr(sides, name)}


@pytest.fixture(scope="module")
def corpus() -> list[Example]:
    lines = (ROOT / "data/support_desk.jsonl").read_text(encoding="utf-8").splitlines()
    return [row(fields["text"], fields["label"]) for fields in map(json.loads, lines)]


@pytest.fixture(scope="module")
def shipped(corpus: list[Example], params: Params) -> Sides:
    return split(corpus, [], params.split)


KNOWN = [*many("a"), *many("b")]
SIDES = side_by_id(split(KNOWN, [], HALF))
NEWCOMERS = st.lists(st.integers(1000, 9999), max_size=40, unique=True)


@settings(deadline=None)
@given(newcomers=NEWCOMERS, order=st.randoms(use_true_random=False))
def test_no_row_moves_when_rows_are_added_or_reordered(newcomers: list[int], order: random.Random) -> None:
    rows = [*KNOWN, *(row(f"newcomer {n}", "ab"[n % 2]) for n in newcomers)]
    order.shuffle(rows)
    after = side_by_id(split(rows, [], HALF))
    assert {example.id: after[example.id] for example in KNOWN} == SIDES


@settings(deadline=None)
@given(remaining=st.sets(st.integers(0, 119), min_size=90))
def test_no_row_moves_when_rows_are_removed(remaining: set[int]) -> None:
    after = side_by_id(split([KNOWN[n] for n in sorted(remaining)], [], HALF))
    assert all(SIDES[row_id] == side for row_id, side in after.items())


def test_the_side_of_a_known_row_is_the_same_for_ever() -> None:
    """A golden test: a change here moves test rows of every user into training."""
    texts = ("one", "two", "three", "four", "five", "six", "seven")
    sides = [side_of(row(text), 1, val_share=0.2, test_share=0.3) for text in texts]
    assert sides == ["train", "train", "train", "val", "test", "train", "test"]


def test_another_seed_gives_another_split() -> None:
    assert side_by_id(split(KNOWN, [], HALF.model_copy(update={"seed": 2}))) != SIDES


def test_every_row_has_one_side(corpus: list[Example], shipped: Sides) -> None:
    ids = [example.id for side in (shipped.train, shipped.val, shipped.test) for example in side]
    assert sorted(ids) == sorted(example.id for example in corpus)


def test_rows_keep_their_order_within_a_side(corpus: list[Example], shipped: Sides) -> None:
    order = {example.id: number for number, example in enumerate(corpus)}
    numbers = [order[example.id] for example in shipped.train]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("side", ["val", "test"])
def test_shares_of_the_corpus_are_within_binomial_bounds(
    corpus: list[Example], shipped: Sides, params: Params, side: str
) -> None:
    share = getattr(params.split, f"{side}_share")
    low, high = binom.interval(0.99, len(corpus), share)
    assert low <= len(getattr(shipped, side)) <= high


@pytest.mark.parametrize("side", ["val", "test"])
def test_shares_of_each_class_are_within_binomial_bounds(
    corpus: list[Example], shipped: Sides, params: Params, side: str
) -> None:
    share = getattr(params.split, f"{side}_share")
    sizes = Counter(example.label for example in getattr(shipped, side))
    outside = []
    for label, rows in Counter(example.label for example in corpus).items():
        low, high = binom.interval(0.9999, rows, share)  # wide, because twenty classes are tested
        if not low <= sizes[label] <= high:
            outside.append(label)
    assert outside == []


def test_shares_hold_over_many_rows() -> None:
    rows = [row(f"text {n}") for n in range(20_000)]
    counts = Counter(side_of(example, 5, val_share=0.1, test_share=0.3) for example in rows)
    for side, share in (("val", 0.1), ("test", 0.3), ("train", 0.6)):
        low, high = binom.interval(0.9999, len(rows), share)
        assert low <= counts[side] <= high


@pytest.mark.parametrize(
    "twin", ["WHERE IS MY PARCEL", "where, is my parcel?!", "Where\nis my\tparcel", "where is\u200b my parcel"]
)
def test_texts_that_differ_in_case_and_punctuation_are_on_one_side(twin: str) -> None:
    for seed in range(20):
        sides = {side_of(row(text), seed, val_share=0.3, test_share=0.3) for text in ("where is my parcel", twin)}
        assert len(sides) == 1


def test_a_group_stays_together() -> None:
    rows = [row(f"text {n}", "ab"[n % 2], group=f"customer {n % 30}") for n in range(300)]  # a customer has one class
    sides = side_by_id(split(rows, [], HALF))
    for group in {example.group for example in rows}:
        assert len({sides[example.id] for example in rows if example.group == group}) == 1, group


def test_a_group_stays_together_across_its_classes() -> None:
    rows = [row(f"text {n}", "ab"[n // 150], group=f"customer {n % 50}") for n in range(300)]
    sides = side_by_id(split(rows, [], HALF))
    divided = [
        group
        for group in {example.group for example in rows}
        if len({sides[example.id] for example in rows if example.group == group}) > 1
    ]
    assert divided == []


def test_groups_are_spread_over_all_sides() -> None:
    rows = [row(f"text {n}", group=f"customer {n % 50}") for n in range(300)]
    assert set(side_by_id(split(rows, [], KEEP)).values()) == {"train", "val", "test"}


def test_a_small_class_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"fewer than 2 test rows.*: tiny(\n|.)*split.small_classes"):
        split([*KNOWN, row("only one", "tiny")], [], HALF)


def test_a_class_that_chance_left_without_test_rows_is_named_with_the_reason() -> None:
    unlucky = [example for example in many("tiny") if side_of(example, 1, val_share=0.2, test_share=0.3) == "train"][:9]
    with pytest.raises(InputError, match=r"tiny \(9 rows\); a hash of each text decides its side"):
        split([*KNOWN, *unlucky], [], HALF)


def test_a_small_class_is_kept_for_training_by_params_and_listed() -> None:
    tiny = next(example for example in many("tiny") if side_of(example, 1, val_share=0.2, test_share=0.3) == "test")
    sides = split([*KNOWN, tiny], [], KEEP)
    assert sides.small_classes == ["tiny"]
    assert side_by_id(sides)[tiny.id] == "train"
    assert {example.label for example in sides.test} == {"a", "b"}


def test_keeping_small_classes_moves_no_other_row() -> None:
    after = side_by_id(split([*KNOWN, row("only one", "tiny")], [], KEEP))
    assert {example.id: after[example.id] for example in KNOWN} == SIDES


def test_a_class_without_training_rows_is_refused() -> None:
    rows = [example for example in many("c", 400) if side_of(example, 1, val_share=0.2, test_share=0.3) == "test"]
    with pytest.raises(InputError, match=r"none to train on: c"):
        split([*KNOWN, *rows], [], HALF)


def test_a_split_without_validation_is_refused() -> None:
    none_in_val = [example for example in KNOWN if SIDES[example.id] != "val"]
    with pytest.raises(InputError, match="no row is assigned to validation"):
        split(none_in_val, [], HALF)


def test_a_supplied_test_is_used_unchanged() -> None:
    supplied = [row("supplied one", "a"), row("supplied two", "b"), row("supplied one", "a"), row("supplied three", "b")]
    sides = split(KNOWN, supplied, HALF)
    assert sides.test == supplied
    assert {example.id for example in [*sides.train, *sides.val]} == {example.id for example in KNOWN}


def test_with_a_supplied_test_the_share_of_validation_stays() -> None:
    sides = split(many("a", 2000), many("a", 2), HALF)
    low, high = binom.interval(0.9999, 2000, HALF.val_share)
    assert low <= len(sides.val) <= high


def test_a_class_that_the_supplied_test_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r": b \(60 rows\)\n.*add rows of these classes to the test file"):
        split(KNOWN, many("a", 4), HALF)


def test_the_report_counts_sides_and_classes() -> None:
    sides = split(KNOWN, [], HALF)
    summary = report(sides, 0.8)
    assert summary["rows"] == dict(Counter(SIDES.values()))
    assert sum(summary["classes"][side]["a"] for side in ("train", "val", "test")) == 60
    assert summary["small_classes_kept_for_training"] == []


def test_near_pairs_between_training_and_test_are_reported_and_those_within_a_side_are_not() -> None:
    long = "the quick brown fox jumps over the lazy dog and runs far away from"
    sides = Sides([row(f"{long} home"), row(f"{long} here")], [row(f"{long} val")], [row(f"{long} there")], [], 0.3)
    summary = report(sides, 0.8)
    assert summary["near_pairs_train_test"] == 2
    assert summary["near_pairs_examples"] == [[f"{long} home", f"{long} there"], [f"{long} here", f"{long} there"]]


def test_digests_are_those_of_the_sides_and_stable() -> None:
    once, again = split(KNOWN, [], HALF), split(list(KNOWN), [], HALF)
    assert report(once, 0.8)["digests"] == report(again, 0.8)["digests"]
    assert report(once, 0.8)["digests"]["test"] == digest_examples(once.test)


def test_few_rows_a_class_are_drawn_by_the_seed_and_tested_on_the_same_rows() -> None:
    rows = [*many("a"), *many("b", 7)]
    whole = split(rows, [], HALF)
    drawn = {seed: split(rows, [], HALF.model_copy(update={"rows_a_class": 10, "seed": seed})) for seed in (1, 2)}
    assert drawn[1].test == whole.test
    chosen = [*drawn[1].train, *drawn[1].val]
    assert Counter(labels_of(chosen))["a"] == 10
    assert Counter(labels_of(chosen))["b"] == Counter(labels_of([*whole.train, *whole.val]))["b"]
    assert {example.id for example in chosen} <= {example.id for example in [*whole.train, *whole.val]}
    supplied = [row("a test of my own", "a"), row("another", "a"), row("a third", "b"), row("a fourth", "b")]
    few = [split(rows, supplied, HALF.model_copy(update={"rows_a_class": 10, "seed": seed})) for seed in (1, 2)]
    assert few[0].test == few[1].test == supplied
    assert {example.id for example in few[0].train} != {example.id for example in few[1].train}
