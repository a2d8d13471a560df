"""Packing: every sequence once, no row too long, and no sequence depends on its neighbours."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.causal.packing import IGNORE_INDEX, Sequences, causal_mask, pack, packed_batch

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(LENGTHS)
@settings(deadline=None)
def test_packs_hold_every_sequence_once_and_are_never_too_full(lengths: list[int]) -> None:
    rows = pack(lengths, 60)
    assert sorted(sequence for row in rows for sequence in row) == list(range(len(lengths)))
    assert all(sum(lengths[sequence] for sequence in row) <= 60 for row in rows)
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 60) + max(1, sum(length > 30 for length in lengths)) + 1


def test_short_sequences_fill_the_space_that_long_ones_leave() -> None:
    assert sorted(map(sorted, pack([6, 3, 7, 4, 10], 10))) == [[0, 3], [1, 2], [4]]


def test_a_sequence_longer_than_a_row_has_its_own_row() -> None:
    assert pack([3, 12], 10) == [[1], [0]]


def test_a_batch_of_packs_numbers_its_sequences_and_restarts_their_positions() -> None:
    batch = packed_batch(Sequences([[7, 8, 9], [5, 6], [4]], [0, 0, 0]), [[0, 1], [2]], multiple=4)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 5, 6, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 2, 2, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist()[0] == [0, 1, 2, 0, 1, 0, 0, 0]
    assert batch["labels"].tolist()[0] == [IGNORE_INDEX, 8, 9, IGNORE_INDEX, 6, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]


def test_a_prompt_is_no_target() -> None:
    batch = packed_batch(Sequences([[7, 8, 9, 3]], [2]), [[0]])
    assert batch["labels"].tolist() == [[IGNORE_INDEX, IGNORE_INDEX, 9, 3]]


@pytest.mark.parametrize(("query", "key", "allowed"), [(1, 0, True), (0, 1, False), (3, 1, False), (3, 2, True), (2, 2, True)])
def test_a_piece_attends_to_earlier_pieces_of_its_own_sequence_only(query: int, key: int, allowed: bool) -> None:
    mask = causal_mask(torch.tensor([[1, 1, 2, 2]]))
    assert bool(mask[0, 0, query, key]) is allowed
