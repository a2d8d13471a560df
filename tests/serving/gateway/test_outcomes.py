"""Outcomes at the gateway: on which answers, which values, from whom, and that each caller's is stored once."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from pipeline.params import Params
from serving.access.tokens import add_token
from serving.gateway.errors import ApiError
from serving.gateway.outcomes import store_outcome
from serving.gateway.schemas import LARGEST_OUTCOME, OutcomeRequest
from serving.key_file import read_key
from serving.prediction_ids import PredictionIds
from state.database import open_state
from state.tables import outcomes
from tests.serving.gateway.test_callers import bearer, gateway

PATH = "/v1/outcome"
NOW = 1_790_000_000.0
(ANSWER, OTHER) = PredictionIds(b"k" * 32).issue(NOW, 3, 2)


class Gateway(NamedTuple):
    client: TestClient
    ids: PredictionIds
    home: Path

    def issue(self, ago_s: float = 0, *, is_control: bool = False) -> str:
        (id,) = self.ids.issue(time.time() - ago_s, 3, 1, is_control=is_control)
        return id

    def report(self, id: str, value: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
        answer = self.client.post(PATH, json={"id": id, "value": value}, headers=headers)
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    def send(self, body: str) -> tuple[int, str]:
        answer = self.client.post(PATH, content=body.encode(), headers={"content-type": "application/json"})
        return answer.status_code, answer.json().get("error", {}).get("code", "")


@pytest.fixture
def running(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    with gateway(params, tmp_path) as client:
        yield Gateway(client, PredictionIds(read_key(tmp_path, "prediction")), tmp_path)


def stored(engine: sa.Engine) -> list[tuple[str, str, float]]:
    columns = (outcomes.c[name] for name in ("prediction_id", "caller", "value"))
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(outcomes.c.id))]


def stored_at(home: Path) -> list[tuple[str, str, float]]:
    with open_state(home) as engine:
        return stored(engine)


def test_numbers_and_booleans_are_stored_as_numbers(running: Gateway) -> None:
    values = [True, False, 4.5, 0, -3, 7, LARGEST_OUTCOME, -0.0]
    ids = [running.issue() for _ in values]
    assert [running.report(id, value)[0] for id, value in zip(ids, values, strict=True)] == [201] * len(values)
    assert stored_at(running.home) == [(id, "local", float(value)) for id, value in zip(ids, values, strict=True)]


@pytest.mark.parametrize(
    "value",
    ["1e400", "-1e400", "1e300", "1e12001", "1" + "0" * 400, "1000000000001", '"1"', '"yes"', "null", "[1]", "{}", '""'],
)
def test_a_value_that_is_no_usable_number_is_refused_and_stored_nowhere(running: Gateway, value: str) -> None:
    status, code = running.send(f'{{"id": "{running.issue()}", "value": {value}}}')
    assert (status, code) in {(422, "not_valid"), (400, "not_json")}
    assert stored_at(running.home) == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "nan", "0x10", "01", "+1", ".5", ""])
def test_a_value_that_is_no_json_or_no_number_is_refused(running: Gateway, value: str) -> None:
    status, _ = running.send(f'{{"id": "{running.issue()}", "value": {value}}}')
    assert status in (400, 422)
    assert stored_at(running.home) == []


def test_a_missing_field_and_a_misspelt_one_are_named(running: Gateway) -> None:
    id = running.issue()
    assert running.send(f'{{"id": "{id}"}}') == (422, "not_valid")
    assert running.send(f'{{"id": "{id}", "value": 1, "unit": "x"}}') == (422, "not_valid")
    assert "value" in running.client.post(PATH, json={"id": id, "valeu": 1}).json()["error"]["message"]


def test_an_id_that_was_never_issued_or_is_forged_is_refused(running: Gateway) -> None:
    id = running.issue()
    forged = id[:-1] + ("0" if id[-1] != "0" else "1")
    other_version = id.replace("-3-0-", "-4-0-")
    foreign = PredictionIds(b"x" * 32).issue(time.time(), 3, 1)[0]
    for wrong in (forged, other_version, foreign, f"{7:024x}-0"):
        assert running.report(wrong, 1) == (404, "no_such_prediction")
    assert running.report("'; DROP TABLE outcomes; --", 1) == (422, "not_valid")
    assert stored_at(running.home) == []


def test_an_answer_beyond_the_reach_of_feedback_is_refused(running: Gateway, params: Params) -> None:
    reach_s = params.retrain.feedback_reach_s
    assert running.report(running.issue(reach_s - 60), 1) == (201, "")
    assert running.report(running.issue(reach_s + 60), 1) == (410, "prediction_too_old")


def test_a_control_cannot_be_told_from_an_answer(running: Gateway) -> None:
    assert running.report(running.issue(is_control=True), 1) == running.report(running.issue(), 1) == (201, "")


def test_the_same_value_again_counts_once_and_another_one_is_refused(running: Gateway) -> None:
    id = running.issue()
    assert [running.report(id, value)[0] for value in (1, True, 1.0)] == [201, 201, 201]
    assert running.report(id, 0) == (409, "outcome_given")
    assert stored_at(running.home) == [(id, "local", 1.0)]


def test_every_caller_reports_one_value_under_its_own_name(params: Params, tmp_path: Path) -> None:
    ana, ben = bearer(tmp_path, "ana"), bearer(tmp_path, "ben")
    with gateway(params, tmp_path) as client:
        running = Gateway(client, PredictionIds(read_key(tmp_path, "prediction")), tmp_path)
        id = running.issue()
        assert running.report(id, 1, ana) == running.report(id, 0, ben) == (201, "")
        assert running.report(id, 0, ana) == (409, "outcome_given")
    assert stored_at(tmp_path) == [(id, "ana", 1.0), (id, "ben", 0.0)]


def test_a_token_needs_the_scope_of_labels(params: Params, tmp_path: Path) -> None:
    token = add_token(tmp_path / "tokens.json", "shop", ["predict"], datetime.now(UTC))
    with gateway(params, tmp_path) as client:
        running = Gateway(client, PredictionIds(read_key(tmp_path, "prediction")), tmp_path)
        id = running.issue()
        assert running.report(id, 1) == (401, "no_token")
        assert running.report(id, 1, {"authorization": f"Bearer {token}"}) == (403, "scope_missing")


def test_outcomes_are_charged_to_the_rate_limit(params: Params, tmp_path: Path) -> None:
    with gateway(params, tmp_path, rate_limit_per_s=1) as client:
        running = Gateway(client, PredictionIds(read_key(tmp_path, "prediction")), tmp_path)
        id = running.issue()
        assert [running.report(id, 1)[0] for _ in range(2)] == [201, 429]


def test_two_values_at_the_same_moment_leave_one_and_the_other_is_told(state: sa.Engine) -> None:
    given = [OutcomeRequest(id=ANSWER, value=value) for value in (0.0, 1.0, 2.0, 3.0) * 2]

    def report(outcome: OutcomeRequest) -> bool:
        try:
            store_outcome(state, outcome, "ana")
        except ApiError as error:
            assert (error.status, error.code) == (409, "outcome_given")
            return False
        return True

    with ThreadPoolExecutor(len(given)) as pool:
        accepted = [outcome.value for outcome, is_stored in zip(given, pool.map(report, given), strict=True) if is_stored]
    store_outcome(state, OutcomeRequest(id=OTHER, value=True), "ana")
    ((_, _, value), other) = stored(state)
    assert accepted == [value, value]
    assert other == (OTHER, "ana", 1.0)
