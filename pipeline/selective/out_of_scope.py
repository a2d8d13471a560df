"""Texts that belong to no class: how many of them a model abstains from, and how well its confidence tells them apart."""

import numpy as np
from scipy.stats import rankdata

from pipeline.selective.coverage import Floats

KEPT = 0.95  # share of in-scope texts that are answered, for `answered_at_95`


def area_under_roc(inside: Floats, outside: Floats) -> float:
    """Return AUROC: the probability that an in-scope text has the higher confidence; ties count half.

    >>> area_under_roc(np.array([0.9, 0.8]), np.array([0.8, 0.1]))
    0.875
    """
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    pairs = len(inside) * len(outside)
    return float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / pairs)


def answered_at_95(inside: Floats, outside: Floats) -> float:
    """Return FPR95: the share of out-of-scope texts that are answered when 95 % of in-scope texts are; lower is better.

    >>> answered_at_95(np.linspace(0.0, 1.0, 101), np.array([0.04, 0.06, 0.5, 0.01]))
    0.5
    """
    threshold = np.sort(inside)[::-1][int(np.ceil(KEPT * len(inside) - 1e-9)) - 1]
    return float(np.mean(outside >= threshold))
