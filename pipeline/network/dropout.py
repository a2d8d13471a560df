"""Dropout (Srivastava et al. 2014) as a bitwise AND: every mask of a micro-batch is a random window of one pool.

Drawing a separate mask for each of a layer's three dropouts costs a third of the layer's matrix products. The pool is drawn
from a seed, so a step is reproducible.
"""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

MIN_POOL_SIZE = 2**18  # values
BITS: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.bfloat16: (torch.int16, np.int16),
    torch.float32: (torch.int32, np.int32),
}


class PooledDropout:
    """Dropout masks of a micro-batch. Values are not rescaled: callers multiply by `scale` where they multiply anyway."""

    def __init__(self, pools: dict[torch.dtype, Tensor], scale: float, rng: np.random.Generator | None) -> None:
        self.pools, self.scale, self.rng = pools, scale, rng

    @classmethod
    def of(cls, probability: float, seed: int | None, dtype: torch.dtype, largest: int) -> Self:
        """Return masks for tensors of `dtype` or fp32 with up to `largest` values; none without a seed or at probability 0."""
        if seed is None or probability == 0.0:
            return cls({}, 1.0, None)
        rng = np.random.Generator(np.random.SFC64(seed))
        drawn = np.frombuffer(rng.bytes(2 * max(MIN_POOL_SIZE, 2 * largest)), dtype=np.uint16)
        keep = drawn >= round(probability * 2**16)
        pools = {kind: torch.from_numpy(-keep.astype(BITS[kind][1])) for kind in {dtype, torch.float32}}  # all bits set, or none
        return cls(pools, 1.0 / (1.0 - probability), rng)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return contiguous `x` with dropped values set to 0, and the mask (None without dropout)."""
        if self.rng is None:
            return x, None
        pool = self.pools[x.dtype]
        start = int(self.rng.integers(len(pool) - x.numel()))
        mask = pool[start : start + x.numel()].view(x.shape)
        return self.apply(x, mask), mask

    @staticmethod
    def apply(x: Tensor, mask: Tensor | None) -> Tensor:
        """Return `x` with the values that the mask drops set to 0."""
        if mask is None:
            return x
        return torch.bitwise_and(x.view(mask.dtype), mask).view(x.dtype)
