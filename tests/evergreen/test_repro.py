"""The steps of `make repro`, and where its time goes."""

import os
import signal
import subprocess
import sys
from io import StringIO
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from evergreen import repro
from evergreen.repro import (
    JUST_INSTALLED_S,
    Command,
    FirstQuestion,
    Timing,
    ask,
    first_question,
    installation,
    run_step,
    stage_timings,
    table,
)
from pipeline.data.columns import Columns
from pipeline.data.records import make_example, write_examples
from pipeline.output.terminal import Terminal
from pipeline.params import Params
from pipeline.session.golden_answers import GoldenAnswers, write_golden

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


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Make artifacts of own data: two golden texts, which are test rows."""
    columns = Columns("text", "label")
    texts = {"la clase de yoga": "horario", "perdí la toalla en el vestuario": "objetos perdidos"}
    rows = [
        make_example({"text": text, "label": label}, columns, max_text_chars=100, source="mine") for text, label in texts.items()
    ]
    write_examples(tmp_path / "split" / "test.parquet", rows)
    golden = GoldenAnswers("onnxruntime-fp32", 0.01, list(texts), list(texts.values()), np.eye(2, dtype=np.float32))
    (tmp_path / "package").mkdir()
    write_golden(golden, tmp_path / "package")
    return tmp_path


def test_own_data_are_asked_a_text_of_their_own_test_rows(artifacts: Path) -> None:
    assert first_question(Path("data/gym.csv"), artifacts) == FirstQuestion("la clase de yoga", "horario")


def test_the_shipped_data_are_asked_the_shipped_question(artifacts: Path, params: Params) -> None:
    assert first_question(params.data.source, artifacts) == FirstQuestion("where is my parcel?", "")


def test_a_package_without_golden_texts_is_asked_all_the_same(tmp_path: Path) -> None:
    assert first_question(Path("data/gym.csv"), tmp_path) == FirstQuestion("where is my parcel?", "")


def test_the_true_label_follows_the_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, ...]] = []

    def run(step: Command) -> list[Timing]:
        asked.append(step.command[-3:])
        return []

    monkeypatch.setattr(repro, "run_step", run)
    ask(FirstQuestion("--my text", "horario"))
    ask(FirstQuestion("where is my parcel?"))
    assert asked == [("--start", "--", "--my text"), ("--start", "--", "where is my parcel?")]
    assert capsys.readouterr().out == "its label in the test rows: horario\n"


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
