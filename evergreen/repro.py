"""`make repro`: every step from an empty folder to a served answer, and where the time went."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from pipeline.home import ARTIFACTS, PACKAGE
from pipeline.lifetime import end_on_signals, start_child
from pipeline.loopback import bypass_proxies
from pipeline.output.plain_text import print_line
from pipeline.output.terminal import Terminal

BIN = Path(sys.executable).parent
EVERGREEN = (sys.executable, "-m", "evergreen.cli")
EXIT_INTERRUPTED = 128 + signal.SIGINT
READY = Path(".venv/ready")  # make writes the seconds of the installation into it
JUST_INSTALLED_S = 60.0  # a younger file was written by this call of make
STAGE = re.compile(r"(?:Running stage|Stage) '(\w+)'(?: (didn't change|is cached))?")
NOTES = {None: "", "didn't change": "unchanged", "is cached": "from the cache"}
Clock = Callable[[], float]


class Command(NamedTuple):
    """A command of `make repro`."""

    name: str
    command: tuple[str, ...]


class FirstQuestion(NamedTuple):
    """A text for the first answer, and its label where it is a test row."""

    text: str
    label: str = ""


class Timing(NamedTuple):
    """Seconds that a step or a stage took."""

    name: str
    seconds: float
    note: str = ""


STEPS = (
    Command("DVC cache and remote", (sys.executable, "-m", "pipeline.worktree")),
    Command("check", (*EVERGREEN, "check")),
    Command("dvc repro", (str(BIN / "dvc"), "repro")),
    Command("publish", (*EVERGREEN, "publish", "--first")),
)
STATUS = Command("status", (*EVERGREEN, "status"))


def stage_timings(lines: Iterable[str], clock: Clock, echo: Callable[[str], None]) -> list[Timing]:
    """Pass on what `dvc repro` prints, and return the seconds of each stage: from its announcement to the next."""
    timings: list[Timing] = []
    began, current = clock(), Timing("", 0.0)
    for line in lines:
        echo(line)
        if match := STAGE.match(line):
            timings.append(current._replace(seconds=clock() - began))
            began, current = clock(), Timing(match[1], 0.0, NOTES[match[2]])
    timings.append(current._replace(seconds=clock() - began))
    return [timing for timing in timings if timing.name]


def run_step(step: Command, clock: Clock = time.monotonic) -> list[Timing]:
    """Run one command to its end; raise `SystemExit` with its exit code when it fails, and after Ctrl-C."""
    began = clock()
    is_dvc = step.name.startswith("dvc ")
    with start_child(step.command, stdout=subprocess.PIPE if is_dvc else None, text=True) as process:
        output = process.stdout or ()
        try:
            stages = stage_timings(output, clock, _echo) if is_dvc else []
            process.wait()
        except KeyboardInterrupt:  # the command was interrupted too, and cleans up
            for line in output:
                _echo(line)
            process.wait()
            raise SystemExit(EXIT_INTERRUPTED) from None
        except SystemExit:  # SIGTERM, which came to this process alone
            process.terminate()
            raise
    if process.returncode:
        raise SystemExit(process.returncode)
    return stages or [Timing(step.name, clock() - began)]


def _echo(line: str) -> None:
    print_line(line.removesuffix("\n"))


def first_question(source: Path, artifacts: Path) -> FirstQuestion:
    """Return a text that the model in these artifacts was not trained on; `source` names the data."""
    from pipeline.data.records import read_examples
    from pipeline.session.golden_answers import example_question

    text = example_question(source, artifacts / PACKAGE.name)
    rows = artifacts / "split" / "test.parquet"
    labels = (row.label for row in read_examples(rows) if row.text == text) if rows.is_file() else iter(())
    return FirstQuestion(text, next(labels, None) or "")


def ask(question: FirstQuestion) -> list[Timing]:
    """Ask a Triton that is started for this question alone, and print the label that the data have for it."""
    timings = run_step(Command("first answer from Triton", (*EVERGREEN, "ask", "--start", "--", question.text)))
    if question.label:
        print_line(f"its label in the test rows: {question.label}")
    return timings


def table(timings: Iterable[Timing]) -> Table:
    """Return the timings as a table with a total."""
    rows = [timing for timing in timings if timing.note or timing.seconds >= 0.5]
    shown = Table("step", "seconds", "", title="where the time went", title_justify="left", show_footer=True)
    shown.columns[0].footer, shown.columns[1].footer = "total", f"{sum(row.seconds for row in rows):.0f}"
    shown.columns[1].justify = "right"
    for row in rows:
        shown.add_row(row.name, f"{row.seconds:.0f}", row.note)
    return shown


def installation(ready: Path, now: float) -> list[Timing]:
    """Return the seconds of the installation when this call of make has just done it."""
    if not ready.is_file() or now - ready.stat().st_mtime > JUST_INSTALLED_S:
        return []
    seconds = ready.read_text(encoding="utf-8").strip()
    return [Timing("installation", float(seconds), "once")] if seconds else []


def main() -> None:
    """Run every step and print the table."""
    from pipeline.params import load_params

    bypass_proxies()
    end_on_signals()
    timings = installation(READY, time.time())
    for step in STEPS:
        timings += run_step(step)
    timings += ask(first_question(load_params().data.source, ARTIFACTS))
    timings += run_step(STATUS)
    Terminal(soft_wrap=False).print(table(timings))


if __name__ == "__main__":
    main()
