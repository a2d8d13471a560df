"""Pooled dropout: the dropped share, the values that stay, and that masks depend on the seed."""

import pytest
import torch

from pipeline.network.dropout import MIN_POOL_SIZE, PooledDropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_the_share_dropped_is_the_probability_and_the_rest_is_untouched(dtype: torch.dtype, probability: float) -> None:
    dropout = PooledDropout.of(probability, 1, dtype, largest=100_000)
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    dropped, mask = dropout(x)
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(1 - probability, abs=4 * (probability * (1 - probability) / 1e5) ** 0.5)
    assert torch.equal(dropped[kept], x[kept])
    assert torch.equal(PooledDropout.apply(x, mask), dropped)
    assert dropout.scale == pytest.approx(1 / (1 - probability))


def test_two_masks_of_one_seed_are_as_different_as_independent_ones() -> None:
    dropout = PooledDropout.of(0.5, 3, torch.float32, largest=MIN_POOL_SIZE // 4)
    ones = torch.ones(MIN_POOL_SIZE // 4)
    first, second = dropout(ones)[0], dropout(ones)[0]
    assert float((first * second).mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("probability", "seed"), [(0.0, 1), (0.3, None)])
def test_no_probability_or_no_seed_drops_nothing(probability: float, seed: int | None) -> None:
    dropout = PooledDropout.of(probability, seed, torch.float32, largest=10)
    x = torch.ones(10)
    dropped, mask = dropout(x)
    assert torch.equal(dropped, x)
    assert mask is None
    assert dropout.scale == 1.0
    assert torch.equal(PooledDropout.apply(x, mask), x)


def test_large_tensors_have_a_pool_that_is_large_enough() -> None:
    dropout = PooledDropout.of(0.1, 1, torch.float32, largest=MIN_POOL_SIZE)
    assert {len(pool) for pool in dropout.pools.values()} == {2 * MIN_POOL_SIZE}
