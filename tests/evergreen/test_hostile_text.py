"""Every command shows text from outside whole and obeys nothing in it: labels, texts, paths, reasons, names and errors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from evergreen import checking, cli, doctor, inspection, labelling, releasing
from evergreen.loop.customers import CustomerMessage
from evergreen.loop.display import Display
from evergreen.loop.events import Event, Facts
from evergreen.loop.promises import Outcome, Promise, table
from monitoring.local import services
from monitoring.retrain.gate import candidate
from monitoring.retrain.gate.promotion import Promotion
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.history import lineage
from monitoring.retrain.history.lineage import Entry
from pipeline.check import project
from pipeline.check.check_line import CheckLine
from pipeline.errors import InputError, RefusedError
from pipeline.output import plain_logs
from pipeline.output.plain_text import printable
from pipeline.output.terminal import Terminal
from pipeline.sharing import fetch
from serving.release import publish
from serving.release.label_change import LabelChange
from serving.release.release_table import Release
from serving.triton import client
from state.database import open_state
from state.tables import decisions
from tests.hostile_text import HOSTILE, is_plain

TEXTS = [text for text in HOSTILE if len(text) < 1_000]
Command = Callable[[str, pytest.MonkeyPatch, Path], None]


def check_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    patch.setattr(project, "check_project", lambda **_: [CheckLine("passed", text), CheckLine("detail", text)])
    checking.check(Path(text), [text])


def fetch_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    patch.setattr(fetch, "fetch", lambda *_, **__: 3)
    cli.fetch("name", to=Path(text))


def ask_command(text: str, patch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "models/intent-1/1").mkdir(parents=True, exist_ok=True)
    patch.setattr(publish, "champion", lambda _home: Release(1, "digest", "champion"))
    patch.setattr("pipeline.runtime.model_files.model_digest", lambda _folder: "same")
    patch.setattr(client, "model_parameters", lambda *_: {"model_digest": "same"})
    patch.setattr(client, "predict_labels", lambda *_: [(text, 0.5)])
    cli.ask([text], start=False)


def why_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    patch.setattr(lineage, "trace", lambda *_: [Entry(text, text, ((text, text),))])
    inspection.why(text)


def gate_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    patch.setattr(candidate, "gate", lambda *_, **__: Verdict(False, (text,), {}))
    with pytest.raises(RefusedError):
        inspection.gate(Path(text))


def status_command(text: str, patch: pytest.MonkeyPatch, home: Path) -> None:
    patch.setattr(services, "find_owner", lambda *_: "nobody")
    patch.setattr(inspection, "METRICS", home / "absent")
    patch.setattr(inspection.out, "width", 1000)
    row = {
        "fingerprint": "f",
        "starts_at": 1.0,
        "alertname": text,
        "version": 1,
        "is_over": False,
        "verdict": text,
        "reason": text,
    }
    clocks = {"at": 1.0, "facts": "{}", "received_wall": 1.0, "received_mono": 1.0, "received_boot": "b"}
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(sa.delete(decisions))
        connection.execute(decisions.insert().values(**row, **clocks))
    inspection.status()


def announcements(text: str, _patch: pytest.MonkeyPatch, _home: Path) -> None:
    releasing.announce(text)
    releasing.announce(f"gateway ended; its last output:\n{text}")


def rollback_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    promotion = Promotion(1, LabelChange((text,), (text,)), None, None, has_other_champion=False)
    patch.setattr(releasing, "_examine", lambda *_: promotion)
    patch.setattr(releasing, "_take_back", lambda *_: None)
    patch.setattr(publish, "release_of", lambda _home, role: Release(1, "digest", role))
    releasing.rollback()


def scorecard(text: str, _patch: pytest.MonkeyPatch, _home: Path) -> None:
    Terminal(width=1_000).print(table(Outcome(text, text, [Promise(text, 1.0, text)], [], {})))


def loop_display(text: str, _patch: pytest.MonkeyPatch, _home: Path) -> None:
    facts = Facts(None, None, [{"state": "running", "step": "reproduce", "progress": text}], [])
    messages: list[CustomerMessage] = []
    Display(Terminal()).show(100.0, [Event(1.0, text, text)], facts, messages)


def doctor_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    def fails(_home: Path) -> Any:
        raise InputError(text, text, text)

    patch.setattr(doctor, "CHECKS", (lambda _home: iter([doctor.Finding("well", text)]), fails))
    with pytest.raises(SystemExit):
        doctor.doctor()


def error_of_a_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    def fails() -> None:
        raise InputError(text, f"there is a label {text}", f"mend {text}")

    patch.setattr(cli, "app", fails)
    patch.setattr(plain_logs.structlog, "configure", lambda **_: None)
    patch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit):
        cli.main()


def disputes_command(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    settled = SimpleNamespace(settled_at=0.0, settled_by=text, verdict="keep")
    names = {"text_id": text, "text": text, "label": text, "protected_label": text, "labellers": [text]}
    dispute = SimpleNamespace(**names, first_at=0.0, last_at=0.0, settlement=settled)
    patch.setattr(labelling, "_read_book", lambda: SimpleNamespace(disputes=lambda: [dispute]))
    labelling.show_disputes(SimpleNamespace(invoked_subcommand=None), everything=True)  # type: ignore[arg-type]


def withdrawal(text: str, patch: pytest.MonkeyPatch, _home: Path) -> None:
    patch.setattr(labelling, "_change_labels", lambda *_: 3)
    labelling.revoke(text)


COMMANDS: tuple[Command, ...] = (
    check_command, fetch_command, ask_command, why_command, gate_command, status_command, announcements, scorecard, loop_display,
    doctor_command, error_of_a_command, disputes_command, withdrawal, rollback_command,
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_hostile_text_is_shown_and_not_obeyed(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    for text in TEXTS:
        if command is status_command and ("\ud83d" in text or "\udcff" in text):
            continue  # the controller stores no half of a surrogate pair
        with monkeypatch.context() as patch:
            command(text, patch, tmp_path)
        shown = "".join(capsys.readouterr())
        assert is_plain(shown, allowed="\n\t" if "\t" in text else "\n"), ascii(text)
        if "\n" not in text and command is not fetch_command:  # a path has no double and no last slash
            assert printable(text) in shown.replace("\t", "\\t"), ascii(text)


def test_what_the_monitor_prints_is_json_that_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.output.plain_text import plain_json, print_lines

    print_lines(plain_json({"examples": list(HOSTILE)}, indent=2))
    shown = capsys.readouterr().out
    assert is_plain(shown)
    assert json.loads(shown) == {"examples": list(HOSTILE)}
