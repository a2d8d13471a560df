"""Multinomial logistic regression with a ridge, on numpy alone: small, and fitted once per version."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS, TOLERANCE = 2000, 1e-6


def fit_softmax(x: Floats, target: NDArray[np.int64], classes: int, row_weights: Floats, ridge: float) -> Floats:
    """Return weights (terms, classes) of rows (N, terms), whose first term is 1 and is not shrunk; row weights (N,).

    Newton steps with a bound in place of the curvature (Böhning 1992): each lowers the loss, and one factorisation serves all.
    """
    one_hot = np.eye(classes)[target]
    penalty = ridge * np.diag(np.r_[1e-6, np.ones(x.shape[1] - 1)])
    bound = np.linalg.inv((x * row_weights[:, None]).T @ x / 2 + penalty)
    weights = np.zeros((x.shape[1], classes))
    ahead, momentum = weights, 1.0  # Nesterov: the bound alone takes thousands of steps
    for _ in range(STEPS):
        gradient = x.T @ (row_weights[:, None] * (softmax_probabilities(x, ahead) - one_hot)) + penalty @ ahead
        stepped = ahead - bound @ gradient
        change = float(np.abs(stepped - weights).max())
        if (gradient * (stepped - weights)).sum() > 0:  # past the minimum: restart the momentum
            momentum = 1.0
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = stepped + (momentum - 1) / next_momentum * (stepped - weights)
        weights, momentum = stepped, next_momentum
        if change < TOLERANCE:
            break
    return weights


def softmax_probabilities(x: Floats, weights: Floats) -> Floats:
    """Return probabilities (N, classes) of rows (N, terms) under weights (terms, classes); rows sum to 1."""
    logits = x @ weights
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
