"""Commands of gradual releases: a person pauses, resumes and ends the one that runs, plans one, and begins one."""

from pathlib import Path

import pytest

from evergreen import gradual, releasing
from monitoring.release.runs import begin_run, end_run, first_run, read_run
from monitoring.retrain import request
from monitoring.retrain.request import RequestStatus
from pipeline.errors import InputError, RefusedError, ToolError
from serving.release.release_table import add_release
from state.database import open_state
from tests.conftest import ROOT

RUN = first_run(7, 2, 1, "salt", 50.0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in the project, with a home that has two versions."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    with open_state(tmp_path) as engine, engine.begin() as connection:
        for version in (1, 2):
            add_release(connection, version, f"content {version}")
    return tmp_path


def begin(home: Path) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        begin_run(connection, RUN, lambda _connection: None)


def wish_of(home: Path) -> str:
    with open_state(home) as engine, engine.begin() as connection:
        run = read_run(connection, 7)
    assert run is not None
    return run.wish


def test_a_person_pauses_resumes_and_ends_the_release(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(home)
    gradual.pause()
    assert wish_of(home) == "pause"
    gradual.resume()
    assert wish_of(home) == "none"
    gradual.abort()
    assert wish_of(home) == "abort"
    assert "the release of version 2 is paused" in capsys.readouterr().out
    with pytest.raises(InputError, match="a person ends it already"):
        gradual.resume()


def test_without_a_running_release_there_is_nothing_to_pause(home: Path) -> None:
    with pytest.raises(InputError, match="no release is running"):
        gradual.pause()
    begin(home)
    with open_state(home) as engine, engine.begin() as connection:
        end_run(connection, 7, lambda _connection: None, outcome="promoted", reason="good", at=60.0)
    with pytest.raises(InputError, match="no release is running"):
        gradual.abort()


def test_shares_cannot_be_set_by_hand_while_a_release_runs(home: Path) -> None:
    begin(home)
    with pytest.raises(InputError, match="its release runs"):
        releasing.route(weight=0.5)


def test_a_plan_says_what_a_release_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradual, "_print_room", lambda *_parts: None)
    gradual.plan(disagreement=0.1, accuracy_lost=0.05, requests_per_s=30.0)
    output = capsys.readouterr().out
    assert "a version 5.0% worse is refused in the shadow" in output and "texts compared in the shadow" in output
    with pytest.raises(InputError, match="accuracy-lost"):
        gradual.plan(disagreement=0.01, accuracy_lost=0.5, requests_per_s=30.0)


@pytest.mark.parametrize(("seconds", "words"), [(30.0, "30 s"), (300.0, "5.0 minutes"), (9000.0, "2.5 hours"), (2e5, "2.3 days")])
def test_a_duration_is_said_in_one_unit(seconds: float, words: str) -> None:
    assert gradual.describe_seconds(seconds) == words


def test_promote_begins_the_challengers_release_and_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []
    status = RequestStatus(
        "started", "release", {}, {"id": 7, "state": "done", "step": "promote", "failure": None, "version_out": 2}
    )  # type: ignore[arg-type]
    monkeypatch.setattr(gradual, "insist_on_version", lambda wanted, *_parts, **_options: asked.append(wanted.version))
    monkeypatch.setattr(request, "release", lambda _params, _home, version, *_rest: asked.append(version) or status)
    gradual.promote(None)
    assert asked == [2, 2]  # examined, then asked for
    assert "version 2 is champion" in capsys.readouterr().out
    rolled_back = status._replace(retrain={**status.retrain, "state": "rolled_back", "failure": "guardrail errors"})  # type: ignore[arg-type, dict-item]
    monkeypatch.setattr(request, "release", lambda *_parts: rolled_back)
    with pytest.raises(RefusedError, match="rolled back: guardrail errors"):
        gradual.promote(2)
    busy = RequestStatus("refused", "busy", {}, None)
    monkeypatch.setattr(request, "release", lambda *_parts: busy)
    with pytest.raises(RefusedError, match="a retrain or a release runs already"):
        gradual.promote(2)


def test_at_once_makes_it_champion_now(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped: list[int] = []
    monkeypatch.setattr(gradual, "insist_on_version", lambda *_parts, **_options: None)
    monkeypatch.setattr(gradual, "swap_to", lambda version, _home: swapped.append(version))
    gradual.promote(2, at_once=True)
    assert swapped == [2]


def test_without_a_champion_there_is_nothing_to_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "empty"))
    with pytest.raises(ToolError, match="no version is published yet"):
        gradual.promote(2)
