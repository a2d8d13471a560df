"""A challenger that fails, hangs, is gone or gives no number: the champion answers in its place and in time; arms are counted."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import requests

from pipeline.params import Params
from pipeline.runtime.outputs import ModelOutputs
from serving.arm_counter import totals
from serving.arm_counts import Arm, ArmTotals, read_counts
from serving.gateway.answering.query import NotServedError, Query
from serving.gateway.metrics import Metrics
from serving.gateway.predictor import Predictor
from serving.prediction import Prediction
from serving.prediction_ids import PredictionIds
from serving.release.release_table import add_release
from serving.release.routing import Routes, choose_arm, read_routes, set_routing
from serving.triton.client import ModelFailedError, ModelSchema, TritonError, UnknownModelError
from state.database import open_state
from tests.faults.stack import wait_until
from tests.serving.gateway.fake_triton import LABELS, FakeConnection, running_gateway

CANARY = Routes(1, 1, 2, 0.25, 0.0, "salt")
SHADOW = Routes(1, 1, 2, 0.0, 1.0, "salt")
WAIT_S = 5.0
Behaviour = Callable[[Sequence[str], float], Awaitable[ModelOutputs]]


def unit_of(arm: str, routes: Routes = CANARY) -> str:
    """Return a unit of this arm."""
    names = (f"unit {number}" for number in range(10_000))
    return next(name for name in names if (choice := choose_arm(routes, name)) and choice.arm == arm)


async def answer(texts: Sequence[str], _timeout_s: float) -> ModelOutputs:
    return await FakeConnection().infer("", texts, 1.0)


async def fail(_texts: Sequence[str], _timeout_s: float) -> ModelOutputs:
    raise TritonError("the process of the model has died")


async def hang(_texts: Sequence[str], timeout_s: float) -> ModelOutputs:
    await asyncio.sleep(timeout_s)
    raise TritonError("no answer in time")


async def forget(_texts: Sequence[str], _timeout_s: float) -> ModelOutputs:
    raise UnknownModelError("unknown model")


async def choke(texts: Sequence[str], _timeout_s: float) -> ModelOutputs:
    if "poison" in texts:
        raise ModelFailedError("the model failed: a token that it does not know")
    return await answer(texts, 1.0)


async def give_nan(texts: Sequence[str], _timeout_s: float) -> ModelOutputs:
    outputs = await answer(texts, 1.0)
    return outputs._replace(probabilities=np.full_like(outputs.probabilities, np.nan))


async def give_no_label(texts: Sequence[str], _timeout_s: float) -> ModelOutputs:
    return (await answer(texts, 1.0))._replace(labels=[""] * len(texts))


class Versions(FakeConnection):
    """Version 1 answers, version 2 does as it is told; notes who was asked what."""

    def __init__(self, challenger: Behaviour, champion: Behaviour = answer) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self._behaviours = {"intent-1": champion, "intent-2": challenger}

    async def infer(self, model: str, texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        self.asked.append((model, list(texts)))
        return await self._behaviours[model](texts, timeout_s)


class Unready(Versions):
    """Does not know the labels of version 2."""

    async def schema(self, model: str) -> ModelSchema:
        if model == "intent-2":
            raise UnknownModelError("unknown model")
        return ModelSchema(LABELS)


class Failing(Versions):
    """Version 1 answers, version 2 fails."""

    def __init__(self, *_: Any) -> None:
        super().__init__(fail)


class Log:
    """Keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Prediction] = []

    def add(self, row: Prediction) -> None:
        self.rows.append(row)


class Seen(NamedTuple):
    """What came of it."""

    answers: Any
    counts: dict[Arm, ArmTotals]
    rows: list[Prediction]
    metrics: Metrics


def run(
    params: Params,
    triton: FakeConnection,
    ask: Callable[[Predictor], Awaitable[Any]],
    routes: Routes = CANARY,
    later: Routes | None = None,
) -> Seen:
    """Return what `ask` gets of a predictor that follows `routes`, and `later` ones when it reads them again."""
    log, metrics = Log(), Metrics()

    async def asked() -> tuple[Any, dict[str, dict[Arm, ArmTotals]]]:
        async def reread() -> Routes:
            return later or routes

        predictor = Predictor(triton, params.gateway, log, metrics, PredictionIds(b"k" * 32), reread)  # type: ignore[arg-type]
        await predictor.follow(routes)
        answers = await ask(predictor)
        while any(not queue.is_idle for queue in predictor.shadows.queues.values()):
            await asyncio.sleep(0)
        return answers, totals(predictor.arms._counts)

    answers, counts = asyncio.run(asked())
    return Seen(answers, counts.get(routes.salt, {}), log.rows, metrics)


def query(*texts: str, arm: str = "challenger", version: int | None = None) -> Query:
    return Query("r", "k", texts, unit_of(arm), version)


def predict(query: Query, wait_s: float = WAIT_S) -> Callable[[Predictor], Awaitable[list[Prediction]]]:
    return lambda predictor: predictor.predict(query, wait_s)


def test_every_arm_is_counted_with_the_latency_of_its_requests(params: Params) -> None:
    async def ask(predictor: Predictor) -> None:
        for arm, texts in (("challenger", ["a", "b"]), ("baseline", ["c"]), ("champion", ["d", "e", "f"])):
            await predictor.predict(query(*texts, arm=arm), WAIT_S)

    counts = run(params, Versions(answer), ask).counts
    answered = {arm: arm_totals._replace(latencies={}) for arm, arm_totals in counts.items()}
    assert answered == {"challenger": ArmTotals(2), "baseline": ArmTotals(1), "champion": ArmTotals(3)}
    assert {arm: sum(arm_totals.latencies.values()) for arm, arm_totals in counts.items()} == dict.fromkeys(answered, 1)


def test_an_answer_of_the_cache_counts_as_answered_and_has_no_latency(params: Params) -> None:
    async def ask(predictor: Predictor) -> None:
        for _ in range(3):
            await predictor.predict(query("again"), WAIT_S)

    counts = run(params, Versions(answer), ask).counts["challenger"]
    assert counts.answered == 3
    assert sum(counts.latencies.values()) == 1


@pytest.mark.parametrize("behaviour", [fail, forget], ids=lambda behaviour: behaviour.__name__)
def test_the_champion_answers_in_the_place_of_a_challenger_that_fails(params: Params, behaviour: Behaviour) -> None:
    seen = run(params, Versions(behaviour), predict(query("a", "b")))
    assert [(given.version, given.role, given.label) for given in seen.answers] == [(1, "champion", LABELS[0])] * 2
    assert all(PredictionIds(b"k" * 32).read(given.id).version == 1 for given in seen.answers)  # type: ignore[union-attr]
    assert seen.counts == {"challenger": ArmTotals(failed=2)}
    assert seen.rows == seen.answers
    exported = seen.metrics.registry.get_sample_value("evergreen_arm_texts_total", {"arm": "challenger", "outcome": "failed"})
    assert exported == 2


def test_a_challenger_that_hangs_leaves_the_champion_half_of_the_time(params: Params) -> None:
    left_s: list[float] = []

    async def note(texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        left_s.append(timeout_s)
        return await answer(texts, timeout_s)

    seen = run(params, Versions(hang, champion=note), predict(query("a"), 1.0))
    assert [given.version for given in seen.answers] == [1]
    assert seen.counts == {"challenger": ArmTotals(failed=1)}
    assert 0 < left_s[0] <= 0.5


def test_an_answer_for_which_a_challenger_would_not_be_waited_for_fails_in_the_baseline_too(params: Params) -> None:
    async def dawdle(texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        await asyncio.sleep(0.7 * timeout_s)
        return await answer(texts, timeout_s)

    async def ask(predictor: Predictor) -> list[Prediction]:
        await predictor.predict(query("a"), 1.0)
        return await predictor.predict(query("b", arm="baseline"), 1.0)

    seen = run(params, Versions(dawdle, champion=dawdle), ask)
    assert [given.version for given in seen.answers] == [1]  # its caller gets it
    assert [counts._replace(latencies={}) for counts in seen.counts.values()] == [ArmTotals(failed=1)] * 2


def test_only_the_texts_that_the_challenger_fails_on_are_answered_by_the_champion(params: Params) -> None:
    triton = Versions(choke)
    seen = run(params, triton, predict(query("a", "poison", "b")))
    assert [(given.text, given.version, given.role) for given in seen.answers] == [
        ("a", 2, "challenger"),
        ("poison", 1, "champion"),
        ("b", 2, "challenger"),
    ]
    assert [texts for model, texts in triton.asked if model == "intent-1"] == [["poison"]]
    assert seen.counts == {"challenger": ArmTotals(answered=2, failed=1)}


@pytest.mark.parametrize("behaviour", [give_nan, give_no_label], ids=lambda behaviour: behaviour.__name__)
def test_a_broken_answer_is_counted_replaced_and_never_cached(params: Params, behaviour: Behaviour) -> None:
    async def ask(predictor: Predictor) -> list[Prediction]:
        await predictor.predict(query("a"), WAIT_S)
        return await predictor.predict(query("a"), WAIT_S)

    triton = Versions(behaviour)
    seen = run(params, triton, ask)
    assert [(given.version, given.label, given.confidence) for given in seen.answers] == [(1, LABELS[0], 0.75)]
    assert seen.counts == {"challenger": ArmTotals(answered=2, broken=2)}
    assert [model for model, _ in triton.asked].count("intent-2") == 2


def test_a_failure_of_the_champion_is_the_callers_and_counts_for_its_arm(params: Params) -> None:
    async def ask(predictor: Predictor) -> None:
        for arm in ("baseline", "champion"):
            with pytest.raises(TritonError):
                await predictor.predict(query("a", "b", arm=arm), WAIT_S)

    assert run(params, Versions(answer, champion=fail), ask).counts == {
        "baseline": ArmTotals(failed=2),
        "champion": ArmTotals(failed=2),
    }


def test_who_names_the_challenger_gets_its_failure_and_is_not_counted(params: Params) -> None:
    async def ask(predictor: Predictor) -> None:
        with pytest.raises(TritonError):
            await predictor.predict(query("a", version=2), WAIT_S)
        await predictor.predict(query("a", version=1), WAIT_S)
        with pytest.raises(NotServedError):
            await predictor.predict(query("a", version=3), WAIT_S)

    assert run(params, Versions(fail), ask).counts == {}


def test_a_challenger_that_was_rolled_back_a_moment_ago_has_not_failed(params: Params) -> None:
    later = Routes(2, 1, None, 0.0, 0.0, "new salt")
    seen = run(params, Versions(forget), predict(query("a")), later=later)
    assert [given.version for given in seen.answers] == [1]
    assert seen.counts == {}


def test_a_challenger_that_is_not_ready_keeps_no_routes_from_being_adopted(params: Params) -> None:
    async def ask(predictor: Predictor) -> tuple[list[Prediction], bool]:
        return await predictor.predict(query("a"), WAIT_S), predictor.lacks_queue

    seen = run(params, Unready(answer), ask)
    (given,), lacks_queue = seen.answers
    assert (given.version, lacks_queue) == (1, True)
    assert seen.counts == {"challenger": ArmTotals(failed=1)}


def test_without_a_release_nothing_is_counted(params: Params) -> None:
    for routes in (Routes(1, 1, None, 0.0, 0.0, "salt"), Routes(1, 1, 2, 0.0, 0.0, "salt")):
        assert run(params, Versions(fail), predict(query("a", arm="champion")), routes).counts == {}


def test_copies_are_counted_as_the_shadow_and_a_broken_one_is_logged_as_an_empty_label(params: Params) -> None:
    seen = run(params, Versions(give_nan), predict(query("a", arm="champion")), SHADOW)
    assert seen.counts["shadow"]._replace(latencies={}) == ArmTotals(answered=1, broken=1)
    assert sum(seen.counts["shadow"].latencies.values()) == 1
    assert [(row.role, row.label, row.confidence) for row in seen.rows] == [("champion", LABELS[0], 0.75), ("shadow", "", 0.0)]


def test_a_copy_that_fails_is_counted(params: Params) -> None:
    seen = run(params, Versions(fail), predict(query("a", arm="champion")), SHADOW)
    assert seen.counts["shadow"] == ArmTotals(failed=1)
    assert [row.role for row in seen.rows] == ["champion"]


def test_a_text_that_the_champion_answered_in_the_challengers_place_is_not_copied_to_it(params: Params) -> None:
    triton = Versions(fail)
    seen = run(params, triton, predict(query("a")), CANARY._replace(shadow_share=1.0))
    assert [row.role for row in seen.rows] == ["champion"]
    assert [model for model, _ in triton.asked] == ["intent-2", "intent-1"]


def test_over_http_no_caller_gets_a_challengers_failure_and_the_counts_of_a_gateway_that_ends_are_stored(
    params: Params, tmp_path: Path
) -> None:
    with open_state(tmp_path) as engine, engine.begin() as connection:
        add_release(connection, 1, "a" * 64)
        add_release(connection, 2, "b" * 64)
        salt = set_routing(connection, challenger_weight=0.25, shadow_share=0.0).salt
    with running_gateway(params, tmp_path, Failing) as port:
        url = f"http://127.0.0.1:{port}/v1/predict"
        wait_until(lambda: requests.post(url, json={"text": "a"}, timeout=10).status_code == 200, 20)
        with open_state(tmp_path) as engine, engine.begin() as connection:
            wanted = {unit_of(arm, read_routes(connection)): arm for arm in ("challenger", "baseline", "champion")}
        answers = [requests.post(url, json={"text": "b", "unit": unit}, timeout=10) for unit in wanted]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert {answer.json()["predictions"][0]["version"] for answer in answers} == {1}
    with open_state(tmp_path) as engine, engine.begin() as connection:
        counts = read_counts(connection, salt)
    assert counts["challenger"].failed >= 1
    assert counts["challenger"].answered == 0
    assert counts["baseline"].answered >= 1
    assert counts["champion"].answered >= 1
