"""How class shares have moved where P(text | class) has not: EM (Saerens et al. 2002) and BBSE (Lipton et al. 2018).

EM wants calibrated probabilities (Alexandari et al. 2020); BBSE wants only the confusion of a black box, and is noisier.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def em_shares(
    probabilities: Floats, reference_shares: Floats, rounds: int, tolerance: float, seen_before: Floats | float = 0.0
) -> Floats:
    """Class shares (classes,) of the rows (N, classes), which were calibrated where shares were `reference_shares`.

    Maximum likelihood: shares ← mean of the posterior under these shares, until none moves by more than `tolerance`;
    `seen_before` adds rows of known class to the mean (a Dirichlet prior). Raises `ValueError` without rows.
    """
    if not len(probabilities):
        raise ValueError("no rows")
    ratio = np.divide(probabilities, reference_shares, out=np.zeros_like(probabilities, np.float64), where=reference_shares > 0)
    shares = np.asarray(reference_shares, dtype=np.float64)
    for _ in range(rounds):
        joint = ratio * shares
        total = joint.sum(axis=1, keepdims=True)
        found = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0).sum(axis=0) + seen_before
        moved, shares = np.abs(found - shares).max(), found / max(found.sum(), 1e-300)
        if moved <= tolerance:
            break
    return shares


def bbse_shares(current: Floats, reference: Floats, truth: NDArray[np.int64], ridge: float) -> Floats:
    """Class shares from mean predictions: solve (E[softmax 1{class}]) w = E_current[softmax], shares = w · reference shares.

    `current` (N, classes), `reference` (M, classes) with true classes (M,). Ridge-regularised least squares towards w = 1, as
    classes with few rows make the matrix singular (RLLS, Azizzadenesheli et al. 2019); negative weights become 0.
    """
    classes = reference.shape[1]
    one_hot = np.eye(classes)[truth]
    confusion = reference.T.astype(np.float64) @ one_hot / len(truth)  # (said, true)
    gap = current.mean(axis=0) - confusion.sum(axis=1)
    step = np.linalg.solve(confusion.T @ confusion + ridge * np.eye(classes), confusion.T @ gap)
    shares = np.maximum(1 + step, 0.0) * one_hot.mean(axis=0)
    return np.asarray(shares / max(shares.sum(), 1e-300))
