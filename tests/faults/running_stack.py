"""The stack of a drill: `evergreen serve` in a scratch home, its capacity, and the progress that is announced."""

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

CACHE_BYTES = 1_300_000  # a response cache that is soon full: memory that grows afterwards is something else
GUESS_PER_S = 150.0
TENTHS = 10


class DrillSettings(NamedTuple):
    """What every drill is given."""

    package: Path
    dvc_lock: Path
    params: Params
    texts: Sequence[str]
    scratch: Path
    console: Terminal
    meter: Meter  # says lines on it, and measures capacity
    capacity_per_s: float | None  # None: measured


class RunningStack(NamedTuple):
    """A stack that serves version 1, with versions whose answers differ ready to be swapped in."""

    setting: DrillSettings
    installation: Installation
    process: subprocess.Popen[bytes]  # `evergreen serve`
    offline: Offline
    atol: float  # how far a served probability may be off the offline one
    capacity_per_s: float  # requests/s at P99 ≤ 50 ms, every text new

    def say(self, line: str) -> None:
        """A line with the time before it."""
        self.setting.meter.say(line)


@contextmanager
def running_stack(setting: DrillSettings, name: str) -> Iterator[RunningStack]:
    """The stack, serving, with its capacity known; ended, and all that it started, when the block ends."""
    setting.meter.say(f"{name}: three versions in a scratch home", "bold")
    small = setting.params.gateway.model_copy(update={"cache_bytes": CACHE_BYTES})
    params = setting.params.model_copy(update={"gateway": small})
    installation = lay_out(setting.scratch / name, setting.package, setting.dvc_lock, params)
    with serving(installation) as process:
        capacity = setting.capacity_per_s or measured_capacity(setting, installation, process)
        yield RunningStack(
            setting, installation, process, offline(installation.packages), read_golden(setting.package).atol, capacity
        )


def measured_capacity(setting: DrillSettings, installation: Installation, process: subprocess.Popen[bytes]) -> float:
    """Requests/s at P99 ≤ 50 ms; raises `ToolError` when no rate holds that."""
    target = gateway_target(installation.url, units=0, headers={})
    arm = Arm("gateway", target, setting.texts, 0.0, [psutil.Process(process.pid)], GUESS_PER_S)
    found = setting.meter.limit("capacity", arm, GUESS_PER_S, 1.5)
    if not found:
        what = f"no rate holds P99 ≤ {P99_LIMIT_MS:g} ms"
        raise ToolError("this machine", what, "let it do nothing else meanwhile, or say what it can take: --capacity")
    return found


def wrong_answers(running: RunningStack, sent: Traffic) -> tuple[int, list[str]]:
    """How many answers are not the offline ones of the version they name, and the first of them in words."""
    with progress(running.setting, "answers held against the offline ones") as tell:
        return traffic.wrong(sent, running.offline, running.atol, tell)


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[Callable[[], bool]]:
    """Run `work(stop)` in a thread and give whether it is over; what it raised is raised when the block ends well."""
    stop = threading.Event()
    with ThreadPoolExecutor(1, "fault") as pool:
        future = pool.submit(work, stop)
        try:
            yield future.done
        finally:
            stop.set()
    future.result()


@contextmanager
def progress(setting: DrillSettings, what: str) -> Iterator[Callable[[float], None]]:
    """A function that takes the share done, 0 to 1: a bar on a terminal, a line each tenth elsewhere.

    The bar is drawn when it is told, by whoever tells: a thread that draws ten times a second would disturb what is measured.
    """
    if setting.console.is_terminal:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn())
        with Progress(*columns, console=setting.console, auto_refresh=False, transient=True) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda share: bar.update(task, completed=share, refresh=True)
        return
    tenth = 0

    def tell(share: float) -> None:
        nonlocal tenth
        if int(TENTHS * share) > tenth:
            tenth = int(TENTHS * share)
            setting.meter.say(f"{what}: {share:.0%}", "dim")

    yield tell
