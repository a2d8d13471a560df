"""Multinomial logistic regression with a ridge, by numpy alone: small, and fitted once for a version."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS, TOLERANCE = 2000, 1e-6


def fit_softmax(x: Floats, kind: NDArray[np.int64], kinds: int, weight: Floats, ridge: float) -> Floats:
    """Weights (terms, kinds) of the rows (N, terms), of which the first term is 1 and is not shrunk; row weights (N,).

    Newton steps with a bound in place of the curvature (Böhning 1992): each lowers the loss, and one factorisation serves all.
    """
    target = np.eye(kinds)[kind]
    shrink = ridge * np.diag(np.r_[1e-6, np.ones(x.shape[1] - 1)])
    bound = np.linalg.inv((x * weight[:, None]).T @ x / 2 + shrink)
    found = np.zeros((x.shape[1], kinds))
    ahead, pace = found, 1.0  # Nesterov's momentum: the bound alone takes thousands of steps
    for _ in range(STEPS):
        slope = x.T @ (weight[:, None] * (chances(x, ahead) - target)) + shrink @ ahead
        step = ahead - bound @ slope
        moved = float(np.abs(step - found).max())
        if (slope * (step - found)).sum() > 0:  # past the bottom: begin the momentum anew
            pace = 1.0
        later = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead, found, pace = step + (pace - 1) / later * (step - found), step, later
        if moved < TOLERANCE:
            break
    return found


def chances(x: Floats, weights: Floats) -> Floats:
    """(N, terms) and (terms, kinds) → (N, kinds), rows sum to 1."""
    said = x @ weights
    grown = np.exp(said - said.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))
