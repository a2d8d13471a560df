"""R-Drop (Liang et al. 2021): each row is computed twice under other dropout, and its two answers are held together.

Where labels are few or noisy that is worth accuracy; it costs a second forward and backward pass. Without dropout both answers
are the same, and nothing is held (`combinations` refuses that).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def duplicate_rows(rows: Tensor) -> Tensor:
    """(B, …) → (2B, …), the copies behind."""
    return torch.cat([rows, rows])


def symmetric_kl(logits: Tensor) -> Tensor:
    """(2B, classes), copies behind → the mean over rows of both answers' mean Kullback-Leibler divergence from each other."""
    first, second = F.log_softmax(logits, dim=-1).chunk(2)
    there = F.kl_div(first, second, reduction="batchmean", log_target=True)
    back = F.kl_div(second, first, reduction="batchmean", log_target=True)
    return (there + back) / 2
