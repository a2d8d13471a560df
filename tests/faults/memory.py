"""Resident memory of the stack's processes, read about once a second by a thread while a drill runs."""

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
    """MiB by kind of process; 0 while there is none."""

    at_s: float  # of the monotonic clock
    triton: float
    models: float  # all stubs of the Python backend together
    gateway: float
    stubs: int  # how many these are: twice as many while two versions are loaded


def watching(process: Popen[bytes], every_s: float) -> AbstractContextManager[list[Sample]]:
    """The samples of `evergreen serve`'s children, a list that grows until the block ends."""
    return sampled(lambda: sample(process), every_s)


def sample(process: Popen[bytes]) -> Sample:
    """Memory of this moment."""
    found = programs(process)
    triton, models, gateway = (sum(map(_resident, found[kind])) for kind in ("triton", "model", "gateway"))
    return Sample(time.monotonic(), triton, models, gateway, len(found["model"]))


def middle(samples: Sequence[Sample], kind: str, since_s: float, until_s: float) -> float:
    """Median over the samples of this time; NaN when there are none."""
    own = [getattr(one, kind) for one in samples if since_s <= one.at_s <= until_s]
    return float(np.median(own)) if own else float("nan")


def slope(steps: Sequence[float], values: Sequence[float]) -> float:
    """How much the values grow with each step: the median of the slopes of all pairs (Theil 1950, Sen 1968); NaN of one."""
    return float(theilslopes(values, steps).slope) if len(steps) > 1 else float("nan")


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / MIB
    except psutil.NoSuchProcess:  # it ended since it was listed
        return 0.0
