"""The steps of `make repro`, and where its time goes."""

import os
import signal
import subprocess
import sys
from io import StringIO
from itertools import count
from pathlib import Path

import pytest

from evergreen.repro import JUST_INSTALLED_S, Command, Timing, installation, run_step, stage_timings, table
from pipeline.output.terminal import Terminal

OUTPUT = """\
Stage 'ingest' didn't change, skipping
Running stage 'train':
> .venv/bin/python -m pipeline.stages.train
epoch 1
Stage 'evaluate' is cached - skipping run, checking out outputs
Use `dvc push` to send your updates to remote storage.
"""


def test_a_stage_lasts_until_the_next_one_is_announced() -> None:
    ticks, echoed = count(), list[str]()
    timings = stage_timings(OUTPUT.splitlines(keepends=True), lambda: float(next(ticks)), echoed.append)
    assert [(timing.name, timing.note) for timing in timings] == [
        ("ingest", "unchanged"),
        ("train", ""),
        ("evaluate", "from the cache"),
    ]
    assert all(timing.seconds == 1.0 for timing in timings)
    assert "".join(echoed) == OUTPUT


def test_a_failing_step_ends_with_its_exit_code() -> None:
    with pytest.raises(SystemExit) as ended:
        run_step(Command("check", (sys.executable, "-c", "raise SystemExit(2)")))
    assert ended.value.code == 2


INTERRUPTED = """
import sys
from evergreen.repro import Command, run_step
run_step(Command(sys.argv[1], (sys.executable, "-c", sys.argv[2])))
"""
TIDY = """
import time
try:
    print("running", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("tidied up", flush=True)
    raise SystemExit(1)
"""


@pytest.mark.parametrize("name", ["dvc repro", "publish"])
def test_ctrl_c_waits_for_the_step_to_clean_up_and_shows_no_traceback(name: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, name, TIDY]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "running\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == "tidied up\n"
        assert process.stderr.read() == ""
    assert process.returncode == 130


def test_the_table_has_a_total() -> None:
    console = Terminal(width=80, record=True, file=StringIO())
    console.print(table([Timing("installation", 61.4, "once"), Timing("train", 30.2), Timing("check", 0.1)]))
    text = console.export_text()
    assert "installation" in text
    assert "92" in text
    assert "check" not in text


def test_an_installation_counts_only_when_make_has_just_done_it(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.write_text("61\n")
    now = ready.stat().st_mtime
    assert installation(ready, now + 1) == [Timing("installation", 61.0, "once")]
    assert installation(ready, now + JUST_INSTALLED_S + 1) == []
    assert installation(tmp_path / "absent", now) == []
