"""Maximum mean discrepancy (Gretton et al. 2012) with a Gaussian kernel, by random Fourier features (Rahimi and Recht 2007).

With random features a sample is its mean feature vector, so the reference is one vector whatever its number of rows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BANDWIDTH_ROWS = 500  # that the median distance is taken over


class RandomFourierFeatures(NamedTuple):
    """The map cos(x · frequencies + phases) · sqrt(2 / D), whose inner products approximate exp(−|x − y|² / (2 bandwidth²))."""

    frequencies: NDArray[np.float32]  # (width, D)
    phases: NDArray[np.float32]  # (D,)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map rows (N, width) to features (N, D)."""
        scale = np.float32(np.sqrt(2 / len(self.phases)))
        return np.asarray(np.cos(rows @ self.frequencies + self.phases) * scale, dtype=np.float32)


def median_distance(rows: NDArray[np.float32]) -> float:
    """Return the median distance of two of the first rows, a common bandwidth; 1 if all rows are equal.

    >>> median_distance(np.array([[0.0], [1.0], [3.0]], dtype=np.float32))
    2.0
    """
    first = rows[:BANDWIDTH_ROWS].astype(np.float64)
    norms = (first**2).sum(axis=1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * first @ first.T, 0.0)[np.triu_indices(len(first), k=1)]
    median = float(np.sqrt(np.median(squares))) if len(squares) else 0.0
    return median if median > 0 else 1.0


def random_features(width: int, size: int, bandwidth: float, rng: np.random.Generator) -> RandomFourierFeatures:
    """Draw `size` random Fourier features of a Gaussian kernel over rows of this width.

    >>> features = random_features(width=2, size=4000, bandwidth=1.0, rng=np.random.default_rng(0))
    >>> x, y = features(np.array([[0.0, 0.0], [1.0, 0.0]], dtype=np.float32))
    >>> bool(abs(float(x @ y) - np.exp(-0.5)) < 0.02)
    True
    """
    frequencies = (rng.standard_normal((width, size)) / bandwidth).astype(np.float32)
    return RandomFourierFeatures(frequencies, rng.uniform(0, 2 * np.pi, size).astype(np.float32))


def squared_mmd(reference: Floats, current: Floats) -> Floats:
    """Return |μ_reference − μ_current|², the biased estimate of MMD²; it is never negative.

    Parameters
        reference, current: mean features (..., D).

    >>> squared_mmd(np.array([0.5, 0.5]), np.array([0.5, 0.25])).item()
    0.0625
    """
    return np.asarray(((reference - current) ** 2).sum(axis=-1), dtype=np.float64)
