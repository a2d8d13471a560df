"""Measure the room on this machine for a second version: memory, and the time that a version takes to load and to answer."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.session.golden_answers import read_golden
from serving.release.manifest import model_name
from serving.release.offline import open_package
from serving.release.plan.room_plan import Room
from serving.triton.client import server_settings
from serving.triton.model_memory import model_memory
from serving.triton.model_metrics import text_seconds

PROBES = 8  # golden texts answered one by one on the processor; the median counts
GPU_CONTEXT = 2**29  # bytes that CUDA and its libraries take for each process
CGROUP_MEMORY = Path("/sys/fs/cgroup")


def measure_room(params: Params, home: Path, champion: int, folder: Path) -> Room:
    """Return the room beside the champion. Its package, `folder`, is opened once more, on the processor."""
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    device = params.package.device
    free = free_memory()
    if free < 2 * files:
        what = f"{free >> 20} MiB of memory are free, which are too few to measure a version of {files >> 20} MiB"
        raise InputError(str(folder), what, "end another program, and repeat")
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    classifier = open_package(folder, params).classifier
    texts = read_golden(folder).texts[:PROBES]
    classifier.predict(texts)
    load_s = time.perf_counter() - began
    cpu_text_s = float(np.median([_seconds(lambda text=text: classifier.predict([text])) for text in texts]))  # type: ignore[misc]
    opened = psutil.Process().memory_info().rss - before
    served = model_memory(home, model_name(champion)) if device == "cpu" else files + GPU_CONTEXT
    computed = text_seconds(server_settings(params.serve), model_name(champion))
    return Room(
        device=device,
        device_free=free if device == "cpu" else gpu_free(),
        memory_free=free,
        model_bytes=served or max(opened, files),
        load_s=load_s,
        cpu_text_s=cpu_text_s,
        device_text_s=computed if computed is not None else cpu_text_s,
    )


def free_memory(cgroup: Path = CGROUP_MEMORY) -> int:
    """Return the bytes of memory that are free for another program, in a container by its limit."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return available if limit == "max" else min(available, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return available


def gpu_free() -> int:
    """Return the free bytes of the GPU with the most; 0 when none answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    query = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout.split()
    return max((int(line) for line in lines if line.isdecimal()), default=0) * 2**20


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
