"""Feedback at the gateway: whose it is, on which answers, and that a label is stored once."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.params import Params
from serving.gateway.errors import ApiError
from serving.gateway.feedback import Labeller, check_id, labeller_of, store_feedback
from serving.gateway.schemas import FeedbackRequest
from serving.prediction_ids import PredictionIds
from state.database import open_state
from state.tables import feedback
from tests.serving.gateway.test_callers import gateway

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
