"""The CPU cores that this process may use, and the check that the instances of a model fit on them."""

import os
from pathlib import Path

from pipeline.errors import InputError
from pipeline.params import Package

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # "<quota> <period>" in microseconds, or "max <period>"


def available_cores(limit: Path = CGROUP_LIMIT) -> int:
    """Return the cores that this process may use: its affinity, limited by a container's quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text(encoding="ascii").split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return cores


def require_cores(package: Package, cores: int) -> None:
    """Raise `InputError` when the instances of a model on the CPU would have more threads than there are cores."""
    wanted = package.instances * package.intra_op_threads
    if package.device == "cpu" and wanted > cores:
        what = f"{package.instances} instances x {package.intra_op_threads} threads need {wanted} cores, but there are {cores}"
        do = "lower package.instances or package.intra_op_threads: threads that share a core slow down every prediction"
        raise InputError("params.yaml, section package", what, do)
