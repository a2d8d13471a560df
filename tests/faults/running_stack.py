"""Run a drill's stack: `evergreen serve` in a scratch home, its measured capacity, and a display of progress."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.errors import ToolError
from pipeline.output.terminal import Terminal
from pipeline.params import Params
from pipeline.session.golden_answers import read_golden
from serving.loadtest import gateway_target
from tests.bench.meter import P99_LIMIT_MS, Arm, Meter
from tests.faults import traffic
from tests.faults.stack import Installation, Offline, lay_out, offline, serving
from tests.faults.traffic import Traffic

CACHE_BYTES = 1_300_000  # fills soon, so that later growth of memory has another cause
GUESS_PER_S = 150.0  # start of the search for the capacity
TENTHS = 10


class DrillSettings(NamedTuple):
    """Hold what every drill needs."""

    package: Path
    dvc_lock: Path
    params: Params
    texts: Sequence[str]
    scratch: Path
    console: Terminal
    meter: Meter  # prints lines and measures the capacity
    capacity_per_s: float | None  # None: it is measured


class RunningStack(NamedTuple):
    """Describe a stack that serves version 1 and has other versions, with different answers, ready for a swap."""

    setting: DrillSettings
    installation: Installation
    process: subprocess.Popen[bytes]  # `evergreen serve`
    offline: Offline
    atol: float  # allowed difference between served and offline probabilities
    capacity_per_s: float  # requests/s at P99 ≤ 50 ms, every text new

    def report(self, line: str) -> None:
        """Print a line behind the elapsed time."""
        self.setting.meter.report(line)


@contextmanager
def running_stack(setting: DrillSettings, name: str) -> Iterator[RunningStack]:
    """Run the stack and measure its capacity; end every process when the block ends."""
    setting.meter.report(f"{name}: three versions in a scratch home", "bold")
    gateway = setting.params.gateway.model_copy(update={"cache_bytes": CACHE_BYTES})
    params = setting.params.model_copy(update={"gateway": gateway})
    installation = lay_out(setting.scratch / name, setting.package, setting.dvc_lock, params)
    with serving(installation) as process:
        capacity = setting.capacity_per_s or measure_capacity(setting, installation, process)
        yield RunningStack(
            setting, installation, process, offline(installation.packages), read_golden(setting.package).atol, capacity
        )


def measure_capacity(setting: DrillSettings, installation: Installation, process: subprocess.Popen[bytes]) -> float:
    """Return the requests/s at P99 ≤ 50 ms; raise `ToolError` when no rate keeps that."""
    target = gateway_target(installation.url, units=0, headers={})
    arm = Arm("gateway", target, setting.texts, 0.0, [psutil.Process(process.pid)], GUESS_PER_S)
    capacity_per_s = setting.meter.limit("capacity", arm, GUESS_PER_S, 1.5)
    if not capacity_per_s:
        problem = f"no rate keeps P99 ≤ {P99_LIMIT_MS:g} ms"
        raise ToolError("this machine", problem, "stop other programs, or name the capacity: --capacity")
    return capacity_per_s


def wrong_answers(running: RunningStack, sent: Traffic) -> tuple[int, list[str]]:
    """Count the answers that differ from the offline ones of the version they name, and describe the first of them."""
    with progress(running.setting, "comparing answers with the offline ones") as show_progress:
        return traffic.find_wrong(sent, running.offline, running.atol, show_progress)


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[Callable[[], bool]]:
    """Run `work(stop)` in a thread; yield a call that returns whether it is over. Raise its error after a block without one."""
    stop = threading.Event()
    with ThreadPoolExecutor(1, "fault") as pool:
        future = pool.submit(work, stop)
        try:
            yield future.done
        finally:
            stop.set()
    future.result()


@contextmanager
def progress(setting: DrillSettings, title: str) -> Iterator[Callable[[float], None]]:
    """Yield a call that takes the share done, 0 to 1: it draws a bar on a terminal, elsewhere it prints a line for each tenth.

    The bar is drawn by the caller's thread: a thread that draws ten times a second would disturb the measurement.
    """
    if setting.console.is_terminal:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn())
        with Progress(*columns, console=setting.console, auto_refresh=False, transient=True) as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda share: bar.update(task, completed=share, refresh=True)
        return
    tenth = 0

    def print_tenth(share: float) -> None:
        nonlocal tenth
        if int(TENTHS * share) > tenth:
            tenth = int(TENTHS * share)
            setting.meter.report(f"{title}: {share:.0%}", "dim")

    yield print_tenth
