"""A test through the real gateway: answers to units, outcomes by their ids, the prediction log, and the verdict."""

from pathlib import Path

import pytest
import requests

from monitoring.release.ab.look import look_at
from monitoring.release.ab.tests_table import begin_test, running_test
from pipeline.params import Params
from serving.release.release_table import add_release
from serving.release.routing import set_routing
from state.database import open_state
from tests.monitoring.release.ab.ab_story import RULE
from tests.serving.gateway.fake_triton import running_gateway

UNITS = 300


def ask(url: str, **body: object) -> dict[str, object]:
    answer = requests.post(f"{url}/v1/predict", json={"text": "where is my parcel?", **body}, timeout=60)
    answer.raise_for_status()
    (prediction,) = answer.json()["predictions"]
    return dict(prediction)


def test_outcomes_of_answers_that_the_gateway_gave_lead_to_the_verdict(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    with open_state(tmp_path) as engine:
        with engine.begin() as connection:
            for version in (1, 2):
                add_release(connection, version, "ab"[version - 1] * 64)
            set_routing(connection, challenger_weight=0.5, shadow_share=1.0)
            began = begin_test(connection, RULE, weight_before=0.0, at=0.0)
        with running_gateway(params, tmp_path) as port:
            url = f"http://127.0.0.1:{port}"
            predictions = [ask(url, unit=f"customer-{number}") for number in range(UNITS)]
            predictions += [ask(url) for _ in range(20)]
            asked_for = ask(url, unit="customer-0", version=3 - int(str(predictions[0]["version"])))
            for prediction in [*predictions, asked_for]:
                body = {"id": prediction["id"], "value": prediction["version"] == 2}
                assert requests.post(f"{url}/v1/outcome", json=body, timeout=60).status_code == 201
        with engine.begin() as connection:
            assert running_test(connection) == began
            look = look_at(began, connection, params, tmp_path, 1e10)
    assert {prediction["version"] for prediction in predictions} == {1, 2}
    assert look.sentence == "B is better"
    assert (look.units.outcomes, look.units.unlogged, look.units.crossed) == (UNITS + 21, 0, 1)
    assert look.verdict.a.units + look.verdict.b.units == UNITS + 20
    assert abs(look.verdict.difference.estimate) > 0.98
