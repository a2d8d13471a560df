"""Maximum mean discrepancy (Gretton et al. 2012) with a Gaussian kernel, exact and by random Fourier features.

With random features (Rahimi and Recht 2007) a sample is its mean feature vector: the reference is one vector, whatever its rows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REFERENCE_ROWS = 500  # that the median distance is taken over


class Features(NamedTuple):
    """cos(x · frequencies + phases) · sqrt(2 / D): inner products approximate exp(−|x − y|² / (2 bandwidth²))."""

    frequencies: NDArray[np.float32]  # (width, D)
    phases: NDArray[np.float32]  # (D,)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, width) → (N, D)."""
        scale = np.float32(np.sqrt(2 / len(self.phases)))
        return np.asarray(np.cos(rows @ self.frequencies + self.phases) * scale, dtype=np.float32)


def median_distance(rows: NDArray[np.float32]) -> float:
    """The median heuristic for the bandwidth, over the first rows; 1 where all are equal."""
    some = rows[:REFERENCE_ROWS].astype(np.float64)
    squares = _squared_distances(some, some)[np.triu_indices(len(some), k=1)]
    found = float(np.sqrt(np.median(squares))) if len(squares) else 0.0
    return found if found > 0 else 1.0


def random_features(width: int, size: int, bandwidth: float, rng: np.random.Generator) -> Features:
    """`size` features of a Gaussian kernel."""
    frequencies = (rng.standard_normal((width, size)) / bandwidth).astype(np.float32)
    return Features(frequencies, rng.uniform(0, 2 * np.pi, size).astype(np.float32))


def mmd_of_means(reference: Floats, current: Floats) -> Floats:
    """|difference|² of mean features (..., D): the biased estimate of MMD², never below 0."""
    return np.asarray(((reference - current) ** 2).sum(axis=-1), dtype=np.float64)


def mmd_exact(reference: Floats, current: Floats, bandwidth: float) -> float:
    """The same with the kernel itself, O((m + n)²): what the features are tested against."""
    inside = _kernel(reference, reference, bandwidth).mean() + _kernel(current, current, bandwidth).mean()
    return float(inside - 2 * _kernel(reference, current, bandwidth).mean())


def permutation_p(reference: Floats, current: Floats, permutations: int, rng: np.random.Generator) -> float:
    """p-value of features (m, D) and (n, D) being one population: rows of both samples are dealt anew, and the statistic seen
    counts among them (Phipson and Smyth 2010), so that p is never 0 and the test is exact. In 1/(permutations + 1) .. 1."""
    pooled = np.concatenate([reference, current]).astype(np.float64)
    total, m, n = pooled.sum(axis=0), len(reference), len(current)
    seen = mmd_of_means(reference.mean(axis=0, dtype=np.float64), current.mean(axis=0, dtype=np.float64))
    dealt = np.stack([pooled[rng.permutation(m + n)[:n]].sum(axis=0) for _ in range(permutations)])
    null = mmd_of_means((total - dealt) / m, dealt / n)
    return float((1 + (null >= seen - 1e-12).sum()) / (1 + permutations))


def _kernel(a: Floats, b: Floats, bandwidth: float) -> Floats:
    return np.asarray(np.exp(-_squared_distances(a, b) / (2 * bandwidth**2)), dtype=np.float64)


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0), dtype=np.float64)
