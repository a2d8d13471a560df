"""Traffic for the releases of the drill, which has no gateway: what gateways write, played into log and database."""

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from monitoring.release.runs import running_run
from serving.arm_counts import ArmTotals, add_counts
from serving.prediction import Prediction, Role
from state.database import open_state
from tests.monitoring.homes import Gateway

TEXTS, ANSWERS = 15, 10  # a turn: copied texts, and answers of each arm
EVERY_S = 0.5
QUICK_RELEASE = {"min_pairs": 20, "margin": 0.3, "steps": "0.1 0.5", "step_answers": 20, "poll_s": 0.2, "hold_s": 0}


def play_traffic(home: Path) -> Callable[[], None]:
    """Return a call that plays a moment of traffic: the challenger agrees with the champion, and no answer fails."""
    gateway, turn = Gateway(home, "drill"), 0

    def play() -> None:
        nonlocal turn
        turn += 1
        try:
            with open_state(home) as engine, engine.begin() as connection:
                run = running_run(connection)
                if run is not None and run.stage == "canary":
                    add_counts(
                        connection, run.salt, {arm: ArmTotals(ANSWERS, 0, 0, {50: ANSWERS}) for arm in ("challenger", "baseline")}
                    )
        except (sa.exc.OperationalError, OSError):  # the drill has locked the database
            return
        if run is not None:
            texts = [f"text {turn} {number}" for number in range(TEXTS)]
            rows = [_answer(text, run.champion, "champion") for text in texts]
            gateway.write([*rows, *(_answer(text, run.version, "shadow") for text in texts)])

    return play


def _answer(text: str, version: int, role: Role) -> Prediction:
    """Return an answer; a copy has the id of its original."""
    return Prediction(time.time(), "r", text, None, text, None, 5, 1.2, version, role, "refund", 0.9, None, b"", b"", 3.0, False)
