"""Sample the resident memory of the stack's processes during a drill."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from subprocess import Popen
from typing import NamedTuple

import numpy as np
import psutil
from scipy.stats import theilslopes

from tests.faults.sampled import sampled
from tests.faults.stack import programs

MIB = 2**20


class Sample(NamedTuple):
    """Hold MiB by kind of process; 0 while there is none."""

    at_s: float  # of the monotonic clock
    triton: float
    models: float  # all stubs of the Python backend together
    gateway: float
    stubs: int  # their number: twice as many while two versions are loaded


def memory_sampled(process: Popen[bytes], every_s: float) -> AbstractContextManager[list[Sample]]:
    """Yield samples of `evergreen serve`'s children, in a list that grows until the block ends."""
    return sampled(lambda: sample(process), every_s)


def sample(process: Popen[bytes]) -> Sample:
    """Sample the memory now."""
    running = programs(process)
    triton, models, gateway = (sum(map(_resident, running[kind])) for kind in ("triton", "model", "gateway"))
    return Sample(time.monotonic(), triton, models, gateway, len(running["model"]))


def median_between(samples: Sequence[Sample], kind: str, since_s: float, until_s: float) -> float:
    """Return the median of the samples in this time; NaN when there are none."""
    values = [getattr(sample, kind) for sample in samples if since_s <= sample.at_s <= until_s]
    return float(np.median(values)) if values else float("nan")


def slope(steps: Sequence[float], values: Sequence[float]) -> float:
    """Return the growth with each step: the median slope over all pairs (Theil 1950, Sen 1968); NaN for a single value."""
    return float(theilslopes(values, steps).slope) if len(steps) > 1 else float("nan")


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / MIB
    except psutil.NoSuchProcess:  # it has ended since it was listed
        return 0.0
