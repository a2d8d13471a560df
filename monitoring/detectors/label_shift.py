"""Class shares under label shift, where P(text | class) is unchanged: EM (Saerens et al. 2002) and BBSE (Lipton et al. 2018).

EM needs calibrated probabilities (Alexandari et al. 2020). BBSE needs only the confusion matrix of a black box, and is noisier.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def em_shares(
    probabilities: Floats, reference_shares: Floats, rounds: int, tolerance: float, prior_counts: Floats | float = 0.0
) -> Floats:
    """Return the maximum-likelihood class shares (classes,): the mean posterior under the shares, iterated.

    Parameters
        probabilities: P(class) of each row (N, classes), calibrated under `reference_shares` (classes,).
        rounds, tolerance: stop after so many rounds, or when no share moves by more than `tolerance`.
        prior_counts: rows of known class added to the mean, a Dirichlet prior.

    Raises `ValueError` without rows.

    >>> rows = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    >>> em_shares(rows, np.array([0.5, 0.5]), rounds=500, tolerance=1e-9).round(3).tolist()
    [0.678, 0.322]
    """
    if not len(probabilities):
        raise ValueError("no rows")
    ratio = np.divide(probabilities, reference_shares, out=np.zeros_like(probabilities, np.float64), where=reference_shares > 0)
    shares = np.asarray(reference_shares, dtype=np.float64)
    for _ in range(rounds):
        joint = ratio * shares
        total = joint.sum(axis=1, keepdims=True)
        counts = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0).sum(axis=0) + prior_counts
        previous, shares = shares, counts / max(counts.sum(), 1e-300)
        if np.abs(shares - previous).max() <= tolerance:
            break
    return shares


def bbse_shares(current: Floats, reference: Floats, truth: NDArray[np.int64], ridge: float) -> Floats:
    """Return class shares (classes,) = w · reference shares, where w solves (E[softmax 1{class}]) w = E_current[softmax].

    Least squares with a ridge towards w = 1, since classes with few rows make the matrix singular (RLLS, Azizzadenesheli et al.
    2019). Negative weights become 0.

    Parameters
        current: probabilities (N, classes) of the rows in question.
        reference: probabilities (M, classes) of reference rows.
        truth: true classes (M,) of the reference rows.
        ridge: strength of the ridge.

    >>> reference, truth = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]]), np.array([0, 0, 1, 1])
    >>> bbse_shares(reference[:3], reference, truth, ridge=1e-6).round(3).tolist()
    [0.69, 0.31]
    """
    classes = reference.shape[1]
    one_hot = np.eye(classes)[truth]
    confusion = reference.T.astype(np.float64) @ one_hot / len(truth)  # (predicted, true)
    gap = current.mean(axis=0) - confusion.sum(axis=1)
    step = np.linalg.solve(confusion.T @ confusion + ridge * np.eye(classes), confusion.T @ gap)
    shares = np.maximum(1 + step, 0.0) * one_hot.mean(axis=0)
    return np.asarray(shares / max(shares.sum(), 1e-300))
