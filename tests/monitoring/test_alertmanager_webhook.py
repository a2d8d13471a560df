"""One alert of a group is read whole, cut, or left out, and never costs another alert; nothing in a label is more than a text."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.alertmanager_webhook import CUT, MAX_CHARS, MAX_TEXT, MAX_TEXTS, WebhookAlert, WebhookError, parse_webhook
from monitoring.clock import Moment
from monitoring.retrain.alerts import decision_row, insert_alerts, received_alerts
from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.run_local import RunLocal
from pipeline.params import Params
from state.database import open_state
from state.tables import alerts, decisions
from tests.hostile_text import HOSTILE
from tests.monitoring.retrain.receiver.running_receiver import alert, webhook

YEAR_1 = datetime(1, 1, 1, tzinfo=UTC).timestamp()


def read(**changed: Any) -> WebhookAlert:
    """Return the first alert of a webhook; a second one follows it."""
    (first, _) = parse_webhook(webhook(alert(1) | changed, alert(2))).alerts
    return first


@pytest.mark.parametrize(
    ("begins", "at"),
    [
        ("2026-11-29T10:00:00.123456789Z", 1_795_946_400.123457),
        ("2026-11-29T12:00:00.5+02:00", 1_795_946_400.5),
        ("0001-01-01T00:00:00Z", YEAR_1),
        ("0001-01-01T00:00:00+14:00", YEAR_1),  # a day earlier, which no calendar here can show
        ("9999-12-31T23:59:59-12:00", datetime(9999, 12, 31, tzinfo=UTC).timestamp()),
        ("2031-01-01T00:00:00Z", 1_924_992_000.0),
    ],
)
def test_odd_dates_are_read_and_can_be_shown(begins: str, at: float) -> None:
    starts_at = read(startsAt=begins).starts_at
    assert starts_at == pytest.approx(at, abs=1e-6)
    assert datetime.fromtimestamp(starts_at, UTC).year >= 1


@pytest.mark.parametrize("ends", ["", None, 5, "soon", "2026-13-01T00:00:00Z"])
def test_an_end_that_cannot_be_read_costs_no_alert(ends: object) -> None:
    assert read(status="resolved", endsAt=ends).ends_at is None


@pytest.mark.parametrize("annotations", [None, {}])
def test_an_alert_needs_no_annotations(annotations: object) -> None:
    assert read(annotations=annotations).annotations == {}


def test_an_alert_without_a_usable_fingerprint_gets_one_of_its_labels() -> None:
    named = {read(fingerprint=given).fingerprint for given in ("", "a\nb", None, 5, "x" * 201)}
    assert len(named) == 1
    assert read(fingerprint="", labels={"alertname": "another"}).fingerprint not in named


def test_a_half_of_a_surrogate_pair_becomes_its_escape() -> None:
    assert read(labels={"alertname": "a", "x": "\ud83d"}).labels["x"] == "\\ud83d"


TEXTS = st.dictionaries(st.text(max_size=30), st.integers(0, 6_000).map(lambda length: "é" * length), max_size=90)


@given(TEXTS, TEXTS)
@settings(max_examples=50, deadline=None)
def test_no_alert_is_larger_than_its_limits_and_each_cut_is_marked(labels: dict[str, str], annotations: dict[str, str]) -> None:
    shown = read(labels={"alertname": "EvergreenDrift", **labels}, annotations=annotations)
    assert shown.labels["alertname"] == labels.get("alertname", "EvergreenDrift")[:MAX_TEXT] or CUT in shown.annotations
    marked = {name: value for name, value in shown.annotations.items() if name != CUT}
    for given_texts, texts in (({"alertname": "EvergreenDrift", **labels}, shown.labels), (annotations, marked)):
        assert len(texts) <= MAX_TEXTS
        assert sum(map(len, texts)) + sum(map(len, texts.values())) <= MAX_CHARS + 40 * MAX_TEXTS
        assert texts == given_texts or CUT in shown.annotations
    assert json.loads(shown.body)["fingerprint"] == shown.fingerprint


OTHERS = (b"{", b"\xff\xfe", b"[]", b"5", b'{"version": 4, "alerts": []}', b'{"version": "4", "alerts": {}}')


@pytest.mark.parametrize("body", OTHERS)
def test_what_is_not_alertmanagers_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookError):
        parse_webhook(body)


def test_no_text_of_an_alert_reaches_an_argument_a_path_or_the_text_of_a_statement(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    statements: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        for word in command:  # `git worktree add` makes the tree
            if word.endswith("/tree"):
                Path(word).mkdir()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(subprocess, "Popen", run)
    marked = [f"{text[:5_000]} MARK" for text in HOSTILE]
    posted = [
        alert(number) | {"labels": {"alertname": text, text: text, "version": text}, "annotations": {text: text}}
        for number, text in enumerate(marked)
    ]
    received = received_alerts(parse_webhook(webhook(*posted)))
    assert len(received) == len(HOSTILE)
    home = tmp_path / "live"
    home.mkdir()
    with open_state(home) as engine:
        sa.event.listen(engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: statements.append(statement))
        with engine.begin() as connection:
            insert_alerts(connection, received, 0.0)
            rows = connection.execute(sa.select(alerts)).all()
            for row in rows:
                connection.execute(decisions.insert().values(**decision_row(row, Moment(0.0, 0.0, "boot"))))
            names = list(connection.execute(sa.select(decisions.c.alertname)).scalars())
    assert len(names) == len(HOSTILE)
    runs = RunLocal(tmp_path, home, params.retrain)
    for number, name in enumerate(names):
        job = RetrainJob(number, number, "reproduce", 1, None, None, None, name, name)
        runs.folder(job).mkdir(parents=True)
        runs.prepare(job)
        runs.start(job)
    assert len(commands) >= 2 * len(HOSTILE)
    assert statements
    paths = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    for text in [*statements, *paths, *(word for command in commands for word in command)]:
        assert "MARK" not in text
