"""Check the move of every standing and verdict."""

from typing import Any

import pytest

from monitoring.release.verdicts.ladder import Standing, decide_move
from pipeline.params import Params

SHADOW = Standing("shadow")
NEW = Standing("canary", 0, 0, 0)
DONE = Standing("canary", 0, 200, 200)
LAST = Standing("canary", 3, 200, 250)


@pytest.mark.parametrize(
    ("standing", "verdict", "broken", "wish", "move"),
    [
        (SHADOW, "open", None, "none", "wait"),
        (SHADOW, "not_worse", None, "none", "start_canary"),
        (SHADOW, "undecided", None, "none", "start_canary"),
        (SHADOW, "worse", None, "none", "refuse"),
        (SHADOW, "worse", None, "pause", "refuse"),
        (SHADOW, "not_worse", None, "pause", "wait"),
        (SHADOW, "not_worse", None, "abort", "abort"),
        (SHADOW, "open", "memory", "none", "refuse"),
        (NEW, "not_worse", None, "none", "wait"),
        (Standing("canary", 0, 200, 199), "not_worse", None, "none", "wait"),
        (Standing("canary", 0, 199, 500), "not_worse", None, "none", "wait"),
        (DONE, "not_worse", None, "none", "step_up"),
        (DONE, "undecided", None, "none", "step_up"),
        (DONE, "not_worse", None, "pause", "wait"),
        (DONE, "not_worse", None, "abort", "abort"),
        (DONE, "worse", None, "none", "roll_back"),
        (DONE, "not_worse", "latency", "none", "roll_back"),
        (DONE, "not_worse", "errors", "pause", "roll_back"),
        (DONE, "not_worse", "errors", "abort", "roll_back"),
        (LAST, "not_worse", None, "none", "promote"),
        (LAST, "not_worse", None, "pause", "wait"),
        (LAST, "not_worse", "feedback", "none", "roll_back"),
    ],
)
def test_the_move_is(standing: Standing, verdict: Any, broken: Any, wish: Any, move: str, params: Params) -> None:
    assert decide_move(standing, verdict, broken, params.release, wish=wish) == move


def test_undecided_is_refused_where_the_settings_say_so(params: Params) -> None:
    strict = params.release.model_copy(update={"undecided": "refuse"})
    assert decide_move(SHADOW, "undecided", None, strict, wish="none") == "refuse"
    assert decide_move(DONE, "undecided", None, strict, wish="none") == "step_up", "it was decided in the shadow"
