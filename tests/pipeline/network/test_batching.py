"""Batches: every row once, and little padding."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.network.base_model import base_folder
from pipeline.network.batching import bucketed_batches, pad, sorted_batches
from pipeline.params import Params
from pipeline.runtime.pieces import load_tokenizer, to_pieces

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=120)
PIECES = st.lists(st.lists(st.integers(1, 30_000), min_size=1, max_size=20), min_size=1, max_size=12)


def padding_ratio(lengths: Sequence[int], batches: list[list[int]]) -> float:
    """Return the ratio of computed pieces to real pieces."""
    return sum(max(lengths[row] for row in batch) * len(batch) for batch in batches) / sum(lengths)


@pytest.fixture(scope="module")
def tokenizer(params: Params) -> Tokenizer:
    return load_tokenizer(base_folder(params.model), max_pieces=16)


@pytest.fixture(scope="module")
def banking_lengths() -> list[int]:
    """Return 10 003 lengths distributed like Banking77's: median 12 pieces, a long tail, at most 98."""
    drawn = np.random.default_rng(77).lognormal(np.log(12), 0.5, size=10_003)
    return np.clip(drawn.round(), 4, 98).astype(int).tolist()


def test_pieces_are_those_of_the_word_piece_vocabulary(tokenizer: Tokenizer) -> None:
    assert to_pieces(tokenizer, ["where is my parcel?"]) == [[101, 2073, 2003, 2026, 20463, 1029, 102]]


def test_an_empty_text_is_its_two_special_pieces(tokenizer: Tokenizer) -> None:
    assert to_pieces(tokenizer, [""]) == [[101, 102]]


def test_long_texts_are_cut_and_keep_the_closing_piece(tokenizer: Tokenizer) -> None:
    (pieces,) = to_pieces(tokenizer, ["parcel " * 500])
    assert len(pieces) == 16
    assert (pieces[0], pieces[-1]) == (101, 102)


def test_texts_of_one_call_are_not_padded_to_each_other(tokenizer: Tokenizer) -> None:
    assert [len(pieces) for pieces in to_pieces(tokenizer, ["parcel", "parcel parcel parcel"])] == [3, 5]


@given(LENGTHS, st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32))
@settings(deadline=None)
def test_an_epoch_holds_every_row_exactly_once_in_full_batches(lengths: list[int], size: int, bucket: int, seed: int) -> None:
    batches = bucketed_batches(lengths, size, bucket, np.random.default_rng(seed))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    sizes = sorted(map(len, batches), reverse=True)
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert len(batches) == -(-len(lengths) // size)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 2**32))
@settings(deadline=None)
def test_the_same_seed_gives_the_same_batches(lengths: list[int], size: int, seed: int) -> None:
    once, again = (bucketed_batches(lengths, size, 3, np.random.default_rng(seed)) for _ in range(2))
    assert once == again


def test_a_generator_that_goes_on_gives_other_batches_each_epoch() -> None:
    rng = np.random.default_rng(0)
    assert bucketed_batches([5] * 64, 8, 4, rng) != bucketed_batches([5] * 64, 8, 4, rng)


def test_batches_do_not_come_in_order_of_length() -> None:
    batches = bucketed_batches(list(range(1, 1001)), 10, 100, np.random.default_rng(0))
    firsts = [min(batch) for batch in batches]
    assert firsts != sorted(firsts)


def test_buckets_pad_less_than_a_tenth_of_banking_like_rows_where_random_batches_pad_half(banking_lengths: list[int]) -> None:
    bucketed = padding_ratio(banking_lengths, bucketed_batches(banking_lengths, 32, 50, np.random.default_rng(0)))
    order = np.random.default_rng(0).permutation(len(banking_lengths)).tolist()
    shuffled = padding_ratio(banking_lengths, [order[i : i + 32] for i in range(0, len(order), 32)])
    assert bucketed < 1.1
    assert shuffled > 1.5


@given(LENGTHS, st.integers(1, 40))
@settings(deadline=None)
def test_sorted_batches_hold_every_row_once_longest_first(lengths: list[int], size: int) -> None:
    batches = sorted_batches(lengths, size)
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[row] for row in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])


def test_sorted_batches_pad_least_of_all(banking_lengths: list[int]) -> None:
    bucketed = padding_ratio(banking_lengths, bucketed_batches(banking_lengths, 32, 50, np.random.default_rng(0)))
    assert 1.0 <= padding_ratio(banking_lengths, sorted_batches(banking_lengths, 32)) < bucketed


def test_pad_fills_up_to_the_longest_chosen_row() -> None:
    batch = pad([[1, 2, 3], [9, 9, 9, 9, 9], [4]], rows=[2, 0])
    assert batch["input_ids"].tolist() == [[4, 0, 0], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@given(PIECES)
@settings(deadline=None)
def test_the_mask_gives_the_pieces_back(pieces: list[list[int]]) -> None:
    batch = pad(pieces, range(len(pieces)))
    unpadded = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    assert unpadded == pieces


def test_lengths_can_be_rounded_up_to_a_multiple_and_the_rest_is_padding() -> None:
    batch = pad([[5, 6, 7], [8]], [0, 1], multiple=8)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 0, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0, 0]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 1]
