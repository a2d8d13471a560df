"""Feedback at the gateway: whose it is, on which answers, and that a label is stored once."""

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from monitoring.labels.entries import read_entries, restore, withdraw
from pipeline.params import Params
from serving.gateway.errors import ApiError
from serving.gateway.feedback import Labeller, check_id, labeller_of, store_feedback, withdraw_feedback
from serving.gateway.schemas import FeedbackRequest
from serving.key_file import read_key
from serving.prediction_ids import PredictionIds
from state.database import open_state
from state.tables import feedback
from tests.serving.gateway.test_callers import bearer, gateway

IDS = PredictionIds(b"k" * 32)
NOW = 1_790_000_000.0


def test_the_labeller_is_the_caller_and_the_source_a_note() -> None:
    assert labeller_of("ana", None) == Labeller("ana", None)
    assert labeller_of("ana", "ben") == Labeller("ana", "ben")
    assert labeller_of("anonymous", "ana") == Labeller("anonymous", "ana")


def test_the_local_user_may_play_several_people() -> None:
    assert labeller_of("local", None).name == "local"
    assert {labeller_of("local", name).name for name in ("ana", "ben")} == {"local/ana", "local/ben"}


def test_feedback_on_an_answer_that_never_was_is_refused(params: Params) -> None:
    for id in (f"{7:024x}-0", f"{7:024x}-1-0-{7:016x}"):
        with pytest.raises(ApiError) as refused:
            check_id(IDS, id, params.retrain, NOW)
        assert (refused.value.status, refused.value.code) == (404, "no_such_prediction")


def test_feedback_on_an_answer_beyond_its_reach_is_refused(params: Params) -> None:
    (id,) = IDS.issue(NOW, 3, 1)
    assert check_id(IDS, id, params.retrain, NOW + params.retrain.feedback_reach_s).version == 3
    with pytest.raises(ApiError, match="90 days") as refused:
        check_id(IDS, id, params.retrain, NOW + params.retrain.feedback_reach_s + 1)
    assert (refused.value.status, refused.value.code) == (410, "prediction_too_old")


def test_sixty_invented_ids_are_refused_and_nothing_is_stored(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    with gateway(params, tmp_path) as client:
        invented = [{"id": f"{number:024x}-3-0-{number:016x}", "label": "track_order"} for number in range(60)]
        answers = [client.post("/v1/feedback", json=body) for body in invented]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(404, "no_such_prediction")}
    with open_state(tmp_path) as engine, engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(feedback)).scalar_one() == 0


def test_a_label_is_stored_once_with_its_labeller_note_and_version(state: sa.Engine) -> None:
    answer, control = IDS.issue(NOW, 3, 1)[0], IDS.issue(NOW, 3, 1, is_control=True)[0]
    for id in (answer, answer, control):
        issued = IDS.read(id)
        assert issued is not None
        store_feedback(state, FeedbackRequest(id=id, label="lost"), "proposal", Labeller("ana", "from the desk"), issued)
    columns = [feedback.c[name] for name in ("prediction_id", "labeller", "note", "version", "withdrawn_at")]
    with state.connect() as connection:
        rows = connection.execute(sa.select(*columns).order_by(feedback.c.id)).all()
    assert rows == [(answer, "ana", "from the desk", 3, None), (control, "ana", "from the desk", None, None)]


(ANSWER,) = IDS.issue(NOW, 3, 1)


def give(engine: sa.Engine, label: str, name: str = "ana") -> None:
    issued = IDS.read(ANSWER)
    assert issued is not None
    store_feedback(engine, FeedbackRequest(id=ANSWER, label=label), "label", Labeller(name, None), issued)


def in_force(engine: sa.Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        return [(entry.labeller, entry.label) for entry in read_entries(connection)]


def test_a_label_that_was_taken_back_counts_again_as_the_newest_when_it_is_given_again(state: sa.Engine) -> None:
    give(state, "refund")
    give(state, "track", "ben")
    assert withdraw_feedback(state, ANSWER, Labeller("ana", None), "refund") == 1
    assert withdraw_feedback(state, ANSWER, Labeller("ana", None), "refund") == 0
    assert in_force(state) == [("ben", "track")]
    give(state, "refund")
    assert in_force(state) == [("ben", "track"), ("ana", "refund")]


def test_nobody_takes_back_the_label_of_another_person(state: sa.Engine) -> None:
    give(state, "refund")
    assert withdraw_feedback(state, ANSWER, Labeller("ben", None), None) == 0
    assert in_force(state) == [("ana", "refund")]


def test_who_returns_to_an_earlier_label_means_that_one(state: sa.Engine) -> None:
    for label in ("refund", "track", "refund"):
        give(state, label)
    assert in_force(state) == [("ana", "refund")]


def test_a_label_that_an_operator_withdrew_does_not_come_back_by_giving_it_again(state: sa.Engine) -> None:
    give(state, "refund")
    give(state, "track")
    withdraw_feedback(state, ANSWER, Labeller("ana", None), "track")
    with state.begin() as connection:
        assert withdraw(connection, "ana", None) == 1
    give(state, "refund")
    assert in_force(state) == []
    with state.begin() as connection:
        assert restore(connection, "ana", None) == 1
    assert in_force(state) == [("ana", "refund")]


def test_a_caller_takes_back_a_label_over_http(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    ana, ben = bearer(tmp_path, "ana"), bearer(tmp_path, "ben")
    with gateway(params, tmp_path) as client:
        ids = PredictionIds(read_key(tmp_path, "prediction"))
        (id,) = ids.issue(time.time(), 3, 1)
        issued = ids.read(id)
        assert issued is not None
        with open_state(tmp_path) as engine:
            store_feedback(engine, FeedbackRequest(id=id, label="refund"), "label", Labeller("ana", None), issued)
        path = f"/v1/feedback/{id}"
        answers = [
            client.delete(path, headers=ben),
            client.delete(path, params={"label": "track"}, headers=ana),
            client.delete(path, params={"label": "refund"}, headers=ana),
        ]
        assert [answer.json()["withdrawn"] for answer in answers] == [0, 0, 1]
        refused = [
            client.delete(path),
            client.delete(f"/v1/feedback/{7:024x}-1-0-{7:016x}", headers=ana),
            client.delete(path, params={"lable": "x"}, headers=ana),
            client.delete(path, headers={**ana, "origin": "http://evil.example"}),
        ]
    assert [answer.status_code for answer in refused] == [401, 404, 422, 403]
