"""The gateway's app without Triton: jobs and their keys belong to callers, and feedback has the callers' rate limit."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipeline.params import Params
from serving.access.callers import Callers
from serving.access.tokens import add_token
from serving.gateway.app import create_app

JOB = {"texts": ["where is my parcel?"]}
FEEDBACK = {"id": "5f1c9a3e7b2d4c6a8e0f1a2b-0", "label": "track_order"}


@pytest.fixture(autouse=True)
def own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)


@contextmanager
def gateway(params: Params, home: Path, rate_limit_per_s: float = 0) -> Iterator[TestClient]:
    """Yield a client of a gateway on loopback whose jobs wait for ever."""
    changed = params.model_copy(
        update={
            "gateway": params.gateway.model_copy(update={"rate_limit_per_s": rate_limit_per_s}),
            "jobs": params.jobs.model_copy(update={"workers": 0}),
        }
    )
    app = create_app(changed, home, Callers(home / "tokens.json", "127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client


def bearer(home: Path, name: str) -> dict[str, str]:
    token = add_token(home / "tokens.json", name, ["predict", "label"], datetime.now(UTC))
    return {"authorization": f"Bearer {token}"}


def test_a_caller_reads_its_jobs_and_no_others_by_id_or_by_key(params: Params, tmp_path: Path) -> None:
    ana, ben = bearer(tmp_path, "ana"), bearer(tmp_path, "ben")
    key = {"idempotency-key": "monday"}
    with gateway(params, tmp_path) as client:
        first = client.post("/v1/jobs", json=JOB, headers=ana | key)
        assert client.post("/v1/jobs", json=JOB, headers=ana | key).json() == first.json()
        theirs = client.post("/v1/jobs", json={"texts": ["another"]}, headers=ben | key)
        assert (first.status_code, theirs.status_code) == (202, 202)
        assert theirs.json()["id"] != first.json()["id"]
        location = first.headers["location"]
        assert [client.get(location, headers=caller).status_code for caller in (ana, ben)] == [200, 404]
        renewed = bearer(tmp_path, "ana")
    with gateway(params, tmp_path) as client:
        assert client.get(location, headers=renewed).status_code == 200  # a job belongs to the name, not to the token


def test_feedback_is_charged_to_the_rate_limit(params: Params, tmp_path: Path) -> None:
    with gateway(params, tmp_path, rate_limit_per_s=1e-9) as client:
        statuses = [client.post("/v1/feedback", json=FEEDBACK).status_code for _ in range(2)]
    assert statuses[0] != 429
    assert statuses[1] == 429


def test_the_rate_limit_of_one_caller_is_not_anothers(params: Params, tmp_path: Path) -> None:
    ana, ben = bearer(tmp_path, "ana"), bearer(tmp_path, "ben")
    with gateway(params, tmp_path, rate_limit_per_s=1e-9) as client:
        statuses = [client.post("/v1/jobs", json=JOB, headers=caller).status_code for caller in (ana, ana, ben)]
    assert statuses == [202, 429, 202]
