"""The receiver on a real server: authorisation, accepted and refused bodies, and that nothing acknowledged is lost."""

import ast
import gc
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from monitoring.alert_rules.retraining import RETRIED
from monitoring.alertmanager_webhook import WebhookError, parse_webhook
from monitoring.bearer_file import ensure_token
from monitoring.retrain.receiver import app
from monitoring.retrain.receiver.app import token_file
from pipeline.errors import InputError
from pipeline.params import Params
from serving.processes import http_body, http_guard, http_protocol
from state.tables import alerts
from tests.monitoring.retrain.receiver.running_receiver import BEGAN, TOKEN, RunningReceiver, alert, running_receiver, webhook


@pytest.fixture(scope="module")
def shared_receiver(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    """Run a receiver that tests of refusals share."""
    with running_receiver(params, tmp_path_factory.mktemp("receiver"), body_within_s=0.4, max_body_bytes=100_000) as receiver:
        yield receiver


@pytest.fixture
def receiver(params: Params, tmp_path: Path) -> Iterator[RunningReceiver]:
    with running_receiver(params, tmp_path) as receiver:
        yield receiver


def test_an_acknowledged_alert_is_in_the_journal_with_its_unknown_fields(receiver: RunningReceiver) -> None:
    assert receiver.post(alert(1) | {"somethingNew": {"deep": [1, None]}}, notificationReason="first") == 204
    with receiver.engine.connect() as connection:
        (row,) = connection.execute(sa.select(alerts)).all()
    stored = json.loads(row.body)
    assert (row.fingerprint, row.starts_at, row.status) == (f"{1:016x}", BEGAN, "firing")
    assert stored["somethingNew"] == {"deep": [1, None]}
    assert stored["startsAt"] == "2026-09-21T14:13:20Z"


def test_each_alert_counts_by_its_own_status_whatever_its_group_says(receiver: RunningReceiver) -> None:
    assert receiver.post(alert(1), alert(2, status="resolved"), status="resolved") == 204
    assert receiver.post(alert(2), alert(1, status="resolved"), status="firing") == 204
    assert sorted((name[-1], status) for name, _, status in receiver.rows()) == [
        ("1", "firing"), ("1", "resolved"), ("2", "firing"), ("2", "resolved")
    ]  # fmt: skip


def test_the_same_alert_in_another_group_order_or_time_zone_is_stored_once(receiver: RunningReceiver) -> None:
    assert receiver.post(alert(1), alert(2)) == 204
    assert receiver.post(alert(2), alert(1) | {"startsAt": "2026-09-21T16:13:20+02:00"}) == 204
    assert len(receiver.rows()) == 2
    assert receiver.metric('evergreen_retrain_alerts_total{kind="known"}') == 2


def test_another_episode_of_the_same_alert_is_stored_separately(receiver: RunningReceiver) -> None:
    receiver.post(alert(1))
    receiver.post(alert(1, began=BEGAN + 0.001))
    assert len(receiver.rows()) == 2


def test_fifty_callers_at_once_make_one_row_of_each_alert(receiver: RunningReceiver) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda n=n: codes.append(receiver.post(alert(n % 5), alert(n)))) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [204] * 50
    assert len(receiver.rows()) == 50


def test_garbage_collection_skips_what_was_imported_at_the_start(params: Params, tmp_path: Path) -> None:
    gc.unfreeze()
    with running_receiver(params, tmp_path):
        assert gc.get_freeze_count() > len(gc.get_objects())


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "\xff"])
def test_without_the_token_nothing_is_accepted(shared_receiver: RunningReceiver, token: str) -> None:
    rows = len(shared_receiver.rows())
    assert shared_receiver.post(alert(100), token=token) == 401
    assert shared_receiver.send(webhook(alert(100)), authorization=f"Basic {TOKEN}") == 401
    assert len(shared_receiver.rows()) == rows


BROKEN: dict[str, Any] = {
    "no JSON": b"{",
    "a list": b"[]",
    "no alerts": b'{"version": "4"}',
    "a number for a label": webhook(alert(101) | {"labels": {"alertname": 5}}),
    "a label that is a list": webhook(alert(101) | {"labels": {"alertname": ["a"]}}),
    "another version": webhook(alert(101), version="3"),
    "an unknown status": webhook(alert(101) | {"status": "pending"}),
    "a time without a zone": webhook(alert(101) | {"startsAt": "2026-09-21T14:13:20"}),
    "a time that is a number": webhook(alert(101) | {"startsAt": 5}),
    "no label at all": webhook(alert(101) | {"labels": None}),
    "two alerts, both bad": webhook({"status": "firing"}, 5),
    "nested 10,000 deep": b'{"version": "4", "alerts": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "an unknown field nested 10,000 deep": b'{"x":' * 10_000 + b"1" + b"}" * 10_000,
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_body_that_is_not_alertmanagers_is_refused_whole(shared_receiver: RunningReceiver, what: str) -> None:
    rows = shared_receiver.rows()
    assert shared_receiver.send(BROKEN[what]) == 400
    assert shared_receiver.rows() == rows


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(shared_receiver: RunningReceiver) -> None:
    body = webhook(alert(102) | {"annotations": {str(i): "x" * 10_000 for i in range(20)}})
    assert shared_receiver.send(body) == 413
    chunks = (body[at : at + 4096] for at in range(0, len(body), 4096))
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    assert requests.post(f"{shared_receiver.url}/v1/alerts", chunks, headers=headers, timeout=20).status_code == 413
    assert not [row for row in shared_receiver.rows() if row[0] == f"{102:016x}"]


def test_a_body_that_does_not_arrive_is_refused(shared_receiver: RunningReceiver) -> None:
    host, port = shared_receiver.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /v1/alerts HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert b" 408 " in connection.recv(4096)


@pytest.mark.parametrize(
    ("headers", "code"), [({"content-type": "text/plain"}, 415), ({"host": "evil.example"}, 400), ({"host": "localhost:1"}, 204)]
)
def test_only_json_to_an_allowed_host_is_accepted(shared_receiver: RunningReceiver, headers: dict[str, str], code: int) -> None:
    assert shared_receiver.send(webhook(alert(103)), **headers) == code


def test_a_full_receiver_answers_503_and_stores_nothing_of_the_webhook(params: Params, tmp_path: Path) -> None:
    with running_receiver(params, tmp_path, max_unseen=3) as receiver:
        assert receiver.post(alert(1), alert(2)) == 204
        assert receiver.post(alert(3), alert(4)) == 503
        assert receiver.post(alert(1), alert(3)) == 204
        assert receiver.post(alert(5)) == 503
        assert receiver.post(alert(2)) == 204  # known: nothing to store
        assert [name[-1] for name, _, _ in receiver.rows()] == ["1", "2", "3"]
        assert receiver.metric('evergreen_refused_total{reason="full"}') == 2


def test_a_failing_database_gives_503_and_the_receiver_recovers_with_it(receiver: RunningReceiver) -> None:
    with receiver.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE alerts RENAME TO away")
    assert receiver.post(alert(1)) == 503
    with receiver.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO alerts")
    assert receiver.post(alert(1)) == 204
    assert receiver.metric("evergreen_retrain_receiver_failures_total") == 1


def test_a_token_is_created_once_and_only_its_owner_can_read_it(params: Params, tmp_path: Path) -> None:
    path = token_file(params.alerts, tmp_path)
    umask = os.umask(0)
    try:
        token = ensure_token(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) == 48
    assert ensure_token(path) == token
    path.write_text("\n")
    with pytest.raises(InputError, match="no token"):
        ensure_token(path)


WRONG: dict[str, Any] = {
    "no object": 5,
    "a number for a label": alert(3) | {"labels": {"alertname": 5}},
    "an unknown status": alert(3) | {"status": "pending"},
    "a time without a zone": alert(3) | {"startsAt": "2026-09-21T14:13:20"},
    "a day that does not exist": alert(3) | {"startsAt": "2026-02-30T14:13:20Z"},
    "no time": {key: value for key, value in alert(3).items() if key != "startsAt"},
}


@pytest.mark.parametrize("what", WRONG)
def test_an_alert_that_cannot_be_read_loses_no_other(receiver: RunningReceiver, what: str) -> None:
    assert receiver.post(alert(1), WRONG[what], alert(2)) == 204
    assert [name[-1] for name, _, _ in receiver.rows()] == ["1", "2"]
    assert receiver.metric('evergreen_refused_total{reason="alert"}') == 1


def test_an_alert_that_is_too_large_is_stored_cut_beside_the_whole_ones(receiver: RunningReceiver) -> None:
    """Alertmanager #1840: a 4xx is not repeated, and took the whole group with it."""
    labels = {f"l{number}": "v" for number in range(70)}
    large = {"annotations": {"description": "x" * 25_000}, "unknown": "y" * 90_000}
    assert receiver.post(alert(1), alert(2, **labels), alert(3) | large) == 204
    with receiver.engine.connect() as connection:
        bodies = [json.loads(body) for body in connection.execute(sa.select(alerts.c.body).order_by(alerts.c.id)).scalars()]
    whole, many, long = bodies
    assert whole == alert(1)
    assert many["labels"]["alertname"] == "EvergreenDrift"
    assert len(many["labels"]) == 64
    assert long["annotations"]["description"].endswith("… [cut: 25,000 characters]")
    assert max(len(json.dumps(body)) for body in bodies) < 70_000
    assert ["evergreen_cut" in body["annotations"] for body in bodies] == [False, True, True]
    assert {body["startsAt"] for body in bodies} == {alert()["startsAt"]}
    assert [name[-1] for name, _, _ in receiver.rows()] == ["1", "2", "3"]


def test_the_parser_names_the_first_wrong_field() -> None:
    webhook_read = parse_webhook(webhook(alert(1), alert(2) | {"labels": 5}, 5, truncatedAlerts=7))
    assert (len(webhook_read.alerts), webhook_read.unreadable, webhook_read.truncated) == (1, 2, 7)
    assert webhook_read.fault == "alerts.1.labels: they have to be an object of texts"
    with pytest.raises(WebhookError, match=r"alerts\.0\.labels"):
        parse_webhook(webhook(alert(2) | {"labels": 5}))


def test_the_alert_lists_the_reasons_after_which_alertmanager_retries() -> None:
    """Alertmanager repeats a webhook after a 5xx. Every refusal of a service is one of these kinds."""
    calls = [node for node in ast.walk(ast.parse(Path(app.__file__).read_text())) if isinstance(node, ast.Call)]
    rejected = [call.args for call in calls if ast.unparse(call.func) == "RejectedError"]
    answers = [(int(status.value), str(reason.value)) for status, reason, _ in rejected if isinstance(status, ast.Constant)]  # type: ignore[attr-defined, arg-type]
    answers += [(kind.status, kind.code) for kind in http_body.BodyError.__subclasses__()]
    answers += [(r.status, r.reason) for r in vars(http_protocol).values() if isinstance(r, http_protocol.ConnectionRefusal)]
    answers += [(r.status, r.code) for r in vars(http_guard).values() if isinstance(r, http_guard.GuardRefusal)]
    assert len(answers) > 15
    assert {reason for status, reason in answers if status >= 500} == set(RETRIED)
