"""Jobs among versions: each text is its own unit unless the job names one, and a job that is tried again splits the same way."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.params import Params
from pipeline.runtime.outputs import ModelOutputs
from serving.gateway.app import answer_job
from serving.gateway.metrics import Metrics
from serving.gateway.predictor import Predictor
from serving.jobs.queue import Claim
from serving.prediction_ids import PredictionIds
from serving.release.routing import NO_ROUTES, Routes
from serving.triton.client import ModelSchema

TEXTS = [f"text {number}" for number in range(200)]
HALF = Routes(1, 1, 2, 0.5, 0.0, "salt")


class Triton:
    """Answers a text with the model's name and the text."""

    async def schema(self, model: str) -> ModelSchema:
        return ModelSchema(("a", "b"))

    async def infer(self, model: str, texts: Sequence[str], _timeout_s: float) -> ModelOutputs:
        rows = len(texts)
        halves, ones = np.full((rows, 2), 0.5, np.float32), np.ones(rows, np.int32)
        return ModelOutputs(
            [f"{model} {text}" for text in texts], halves, np.zeros((rows, 4), np.float16), ones, ones.astype("f4")
        )


class Log:
    """Keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def add(self, row: Any) -> None:
        self.rows.append(row)


def answers(params: Params, id: str, unit: str | None = None) -> tuple[list[dict[str, Any]], Log]:
    """Return the answers to a job and what was logged."""
    log = Log()

    async def run() -> list[dict[str, Any]]:
        async def reread() -> Routes:
            return NO_ROUTES

        predictor = Predictor(Triton(), params.gateway, log, Metrics(), PredictionIds(b"k" * 32), reread)  # type: ignore[arg-type]
        await predictor.follow(HALF)
        return await answer_job(predictor, Claim(id, {"texts": TEXTS, "unit": unit, "version": None}, 1, 1))

    return asyncio.run(run()), log


def test_the_texts_of_a_job_are_split_among_the_versions_in_their_order(params: Params) -> None:
    given, log = answers(params, "1" * 32)
    versions = [answer["version"] for answer in given]
    assert 70 <= versions.count(2) <= 130
    assert [answer["label"] for answer in given] == [f"intent-{n} {text}" for n, text in zip(versions, TEXTS, strict=True)]
    assert {row.request_id for row in log.rows} == {"1" * 32}  # `why` finds them by the job
    again, _ = answers(params, "1" * 32)
    assert [answer["version"] for answer in again] == versions
    other, _ = answers(params, "2" * 32)
    assert [answer["version"] for answer in other] != versions


@pytest.mark.parametrize("unit", ["ann", "ben", "cem"])
def test_the_texts_of_a_job_with_a_unit_go_to_the_units_version(params: Params, unit: str) -> None:
    given, _ = answers(params, "1" * 32, unit)
    assert len({answer["version"] for answer in given}) == 1
