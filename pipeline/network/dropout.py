"""Dropout (Srivastava et al. 2014) as a bitwise AND: every mask of a micro-batch is a window of one drawn pool.

Drawing a mask of its own for each of the three dropouts of a layer costs as much as a third of the layer's matrix products. The
pool is drawn from a seed, so that a step is a function of the generator's state, and each use begins at a place drawn anew.
"""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

MIN_POOL_SIZE = 2**18  # values at least
BITS: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.bfloat16: (torch.int16, np.int16),
    torch.float32: (torch.int32, np.int32),
}


class PooledDropout:
    """Masks of one micro-batch. What is kept is not scaled here: multiply by `scale` where something is multiplied anyway."""

    def __init__(self, pools: dict[torch.dtype, Tensor], scale: float, rng: np.random.Generator | None) -> None:
        self.pools, self.scale, self.rng = pools, scale, rng

    @classmethod
    def of(cls, probability: float, seed: int | None, dtype: torch.dtype, largest: int) -> Self:
        """Masks for tensors of `dtype` or fp32 up to `largest` numbers; none at all without a seed or at probability 0."""
        if seed is None or probability == 0.0:
            return cls({}, 1.0, None)
        rng = np.random.Generator(np.random.SFC64(seed))
        drawn = np.frombuffer(rng.bytes(2 * max(MIN_POOL_SIZE, 2 * largest)), dtype=np.uint16)
        keep = drawn >= round(probability * 2**16)
        pools = {one: torch.from_numpy(-keep.astype(BITS[one][1])) for one in {dtype, torch.float32}}  # all bits, or none
        return cls(pools, 1.0 / (1.0 - probability), rng)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`x` with dropped numbers set to 0, in place of a contiguous tensor nobody else needs, and the mask."""
        if self.rng is None:
            return x, None
        pool = self.pools[x.dtype]
        start = int(self.rng.integers(len(pool) - x.numel()))
        mask = pool[start : start + x.numel()].view(x.shape)
        return self.again(x, mask), mask

    @staticmethod
    def again(x: Tensor, mask: Tensor | None) -> Tensor:
        """The same numbers set to 0."""
        if mask is None:
            return x
        return torch.bitwise_and(x.view(mask.dtype), mask).view(x.dtype)
