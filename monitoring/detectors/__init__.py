"""Published statistics of change, one per file: arrays in, numbers out. Thresholds are applied elsewhere."""

from monitoring.detectors import (
    bbsd,
    chi_square,
    conformal,
    e_detector,
    e_process,
    jensen_shannon,
    kolmogorov_smirnov,
    label_shift,
    mmd,
    novelty,
    psi,
)

__all__ = [
    "bbsd",
    "chi_square",
    "conformal",
    "e_detector",
    "e_process",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "label_shift",
    "mmd",
    "novelty",
    "psi",
]
