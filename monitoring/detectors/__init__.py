"""Published statistics of change, one a file: arrays in, numbers out. What a number means for an alarm is decided elsewhere."""

from monitoring.detectors import (
    adwin,
    bbsd,
    chi_square,
    classifier_two_sample,
    conformal,
    e_detector,
    e_process,
    jensen_shannon,
    kolmogorov_smirnov,
    label_shift,
    mmd,
    novelty,
    page_hinkley,
    psi,
    wasserstein,
)

__all__ = [
    "adwin",
    "bbsd",
    "chi_square",
    "classifier_two_sample",
    "conformal",
    "e_detector",
    "e_process",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "label_shift",
    "mmd",
    "novelty",
    "page_hinkley",
    "psi",
    "wasserstein",
]
