"""The receiver on a real server: who may speak, what is taken, what is kept, and that nothing acknowledged is lost."""

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

from monitoring.alertmanager_webhook import WebhookError
from monitoring.retrain.alerts import read_alerts
from monitoring.retrain.receiver.app import ensure_token, token_file
from pipeline.errors import InputError
from pipeline.params import Params
from state.tables import alerts
from tests.monitoring.retrain.receiver.receiver_here import BEGAN, TOKEN, Here, alert, receiver_here, webhook


@pytest.fixture(scope="module")
def shared(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """A receiver for tests that ask for refusals."""
    with receiver_here(params, tmp_path_factory.mktemp("receiver"), body_within_s=0.4, max_body_bytes=100_000) as here:
        yield here


@pytest.fixture
def here(params: Params, tmp_path: Path) -> Iterator[Here]:
    with receiver_here(params, tmp_path) as one:
        yield one


def test_what_is_acknowledged_stands_in_the_journal_with_unknown_fields(here: Here) -> None:
    assert here.post(alert(1) | {"somethingNew": {"deep": [1, None]}}, notificationReason="first") == 204
    with here.engine.connect() as connection:
        (row,) = connection.execute(sa.select(alerts)).all()
    kept = json.loads(row.body)
    assert (row.fingerprint, row.starts_at, row.status) == (f"{1:016x}", BEGAN, "firing")
    assert kept["somethingNew"] == {"deep": [1, None]}
    assert kept["startsAt"] == "2026-09-21T14:13:20Z"


def test_each_alert_counts_by_its_own_status_whatever_the_group_says(here: Here) -> None:
    assert here.post(alert(1), alert(2, status="resolved"), status="resolved") == 204
    assert here.post(alert(2), alert(1, status="resolved"), status="firing") == 204
    assert sorted((name[-1], status) for name, _, status in here.rows()) == [
        ("1", "firing"), ("1", "resolved"), ("2", "firing"), ("2", "resolved")
    ]  # fmt: skip


def test_the_same_alert_in_another_group_order_or_zone_is_the_same(here: Here) -> None:
    assert here.post(alert(1), alert(2)) == 204
    assert here.post(alert(2), alert(1) | {"startsAt": "2026-09-21T16:13:20+02:00"}) == 204
    assert len(here.rows()) == 2
    assert here.metric('evergreen_retrain_alerts_total{kind="known"}') == 2


def test_another_episode_of_the_same_alert_is_another(here: Here) -> None:
    here.post(alert(1))
    here.post(alert(1, began=BEGAN + 0.001))
    assert len(here.rows()) == 2


def test_fifty_callers_at_once_make_one_row_of_each_alert(here: Here) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda n=n: codes.append(here.post(alert(n % 5), alert(n)))) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [204] * 50
    assert len(here.rows()) == 50


def test_what_was_there_at_the_start_is_not_looked_through_while_callers_wait(params: Params, tmp_path: Path) -> None:
    gc.unfreeze()
    with receiver_here(params, tmp_path):
        assert gc.get_freeze_count() > len(gc.get_objects())


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "\xff"])
def test_without_the_token_nothing_is_taken(shared: Here, token: str) -> None:
    before = len(shared.rows())
    assert shared.post(alert(100), token=token) == 401
    assert shared.send(webhook(alert(100)), authorization=f"Basic {TOKEN}") == 401
    assert len(shared.rows()) == before


BROKEN: dict[str, Any] = {
    "no JSON": b"{",
    "a list": b"[]",
    "no alerts": b'{"version": "4"}',
    "a number for a label": webhook(alert(101) | {"labels": {"alertname": 5}}),
    "a label that is a list": webhook(alert(101) | {"labels": {"alertname": ["a"]}}),
    "another version": webhook(alert(101), version="3"),
    "a status of its own": webhook(alert(101) | {"status": "pending"}),
    "a time without a zone": webhook(alert(101) | {"startsAt": "2026-09-21T14:13:20"}),
    "a time that is a number": webhook(alert(101) | {"startsAt": 5}),
    "a line break in a fingerprint": webhook(alert(101) | {"fingerprint": "a\nb"}),
    "no fingerprint": webhook({key: value for key, value in alert(101).items() if key != "fingerprint"}),
    "half of a surrogate pair": webhook(alert(101, note="\ud800")),
    "one good alert and one bad": webhook(alert(101), {"status": "firing"}),
    "nested 10,000 deep": b'{"version": "4", "alerts": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "an unknown field nested 10,000 deep": b'{"x":' * 10_000 + b"1" + b"}" * 10_000,
    "a label of 100 kB": webhook(alert(101, note="x" * 50_000)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_alertmanagers_is_refused_whole(shared: Here, what: str) -> None:
    before = shared.rows()
    assert shared.send(BROKEN[what]) == 400
    assert shared.rows() == before


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(shared: Here) -> None:
    body = webhook(alert(102) | {"annotations": {str(i): "x" * 10_000 for i in range(20)}})
    assert shared.send(body) == 413
    chunks = (body[at : at + 4096] for at in range(0, len(body), 4096))
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    assert requests.post(f"{shared.url}/v1/alerts", chunks, headers=headers, timeout=20).status_code == 413
    assert not [row for row in shared.rows() if row[0] == f"{102:016x}"]


def test_a_body_that_does_not_come_is_not_waited_for(shared: Here) -> None:
    host, port = shared.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /v1/alerts HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert b" 408 " in connection.recv(4096)


@pytest.mark.parametrize(
    ("headers", "code"), [({"content-type": "text/plain"}, 415), ({"host": "evil.example"}, 400), ({"host": "localhost:1"}, 204)]
)
def test_only_json_to_a_name_of_ours_is_taken(shared: Here, headers: dict[str, str], code: int) -> None:
    assert shared.send(webhook(alert(103)), **headers) == code


def test_when_it_is_full_it_says_so_and_takes_none_of_a_webhook(params: Params, tmp_path: Path) -> None:
    with receiver_here(params, tmp_path, max_unseen=3) as here:
        assert here.post(alert(1), alert(2)) == 204
        assert here.post(alert(3), alert(4)) == 503
        assert here.post(alert(1), alert(3)) == 204
        assert here.post(alert(5)) == 503
        assert here.post(alert(2)) == 204  # known: nothing to keep
        assert [name[-1] for name, _, _ in here.rows()] == ["1", "2", "3"]
        assert here.metric('evergreen_retrain_webhooks_refused_total{reason="full"}') == 2


def test_when_the_database_fails_it_says_503_and_goes_on_when_it_is_back(here: Here) -> None:
    with here.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE alerts RENAME TO away")
    assert here.post(alert(1)) == 503
    with here.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO alerts")
    assert here.post(alert(1)) == 204
    assert here.metric("evergreen_retrain_receiver_failures_total") == 1


def test_a_token_is_made_once_and_only_its_owner_can_read_it(params: Params, tmp_path: Path) -> None:
    path = token_file(params.alerts, tmp_path)
    before = os.umask(0)
    try:
        token = ensure_token(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) == 48
    assert ensure_token(path) == token
    path.write_text("\n")
    with pytest.raises(InputError, match="no token"):
        ensure_token(path)


def test_the_parser_says_where_a_webhook_is_wrong() -> None:
    with pytest.raises(WebhookError, match=r"alerts\.1\.labels"):
        read_alerts(webhook(alert(1), alert(2) | {"labels": 5}))
    received, truncated = read_alerts(webhook(alert(1), truncatedAlerts=7))
    assert (len(received), truncated) == (1, 7)
