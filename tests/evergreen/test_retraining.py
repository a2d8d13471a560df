"""The command `retrain`: what it prints and how it exits; the retrain itself is played."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evergreen.retraining import INTERRUPTED, retrain
from monitoring.clock import read_clock
from monitoring.retrain import request
from monitoring.retrain.request import RequestStatus
from pipeline.errors import EvergreenError, RefusedError, ToolError
from tests.conftest import ROOT

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in the project with an empty home; the command sets handlers of signals."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def retrain_row(state: str, failure: str | None = None) -> Any:
    now = read_clock()
    lease = {"lease_wall": now.wall, "lease_mono": now.mono, "lease_boot": now.boot}
    base = {"id": 7, "step": "gate", "attempt": 1, "owner": None, "progress": "", "version_out": 2}
    return base | lease | {"state": state, "failure": failure}


def end(monkeypatch: pytest.MonkeyPatch, status: RequestStatus) -> None:
    monkeypatch.setattr(request, "retrain", lambda *_parts: status)
    retrain()


def test_a_new_champion_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    end(monkeypatch, RequestStatus("started", "asked", {}, retrain_row("done")))
    assert "retrain 7: version 2 is champion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (RequestStatus("refused", "no_champion", {}, None), ToolError, "make repro"),
        (
            RequestStatus("refused", "other_inputs", {"other_inputs": "no my.csv"}, None),
            RefusedError,
            "no my.csv",
        ),
        (RequestStatus("started", "asked", {}, retrain_row("refused", "worse on old rows")), RefusedError, "worse on old rows"),
        (RequestStatus("started", "asked", {}, retrain_row("failed", "no space left")), EvergreenError, "no space left"),
        (
            RequestStatus("joined", "running", {}, retrain_row("cancelled", "by a person")),
            EvergreenError,
            "cancelled at step",
        ),
    ],
)
def test_every_other_end_is_an_error_with_its_reason(
    status: RequestStatus, error: type[EvergreenError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error, match=words) as raised:
        end(monkeypatch, status)
    assert raised.value.exit_code == error.exit_code


def test_an_interrupted_retrain_says_how_to_go_on_and_how_to_end_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        end(monkeypatch, RequestStatus("started", "asked", {}, retrain_row("running")))
    assert exited.value.code == INTERRUPTED
    output = capsys.readouterr().out
    assert "to continue it: .venv/bin/evergreen retrain;" in output
    assert "to end it: .venv/bin/evergreen retrain --cancel" in output


def test_there_may_be_nothing_to_cancel(capsys: pytest.CaptureFixture[str]) -> None:
    retrain(cancel=True)
    assert "no retrain is running" in capsys.readouterr().out
