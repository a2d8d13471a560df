"""Who works on a retrain, read off its lease: the same for status, inbox, alerts and the page Live."""

from typing import Any

import pytest

from monitoring.clock import Moment
from monitoring.console.live.events import describe_retrain
from monitoring.retrain_activity import Activity, find_activity
from pipeline.process_identity import this_process

NOW = Moment(2_000.0, 900.0, "boot")
HOST, BOOT, PID, STARTED = this_process().split(" ")
GONE = f"{HOST} {BOOT} {PID} {int(STARTED) - 1}"


def retrain(owner: str | None, attempt: int, step: str, due_in_s: float, fence: int = 1) -> dict[str, Any]:
    lease = {"lease_wall": NOW.wall + due_in_s, "lease_mono": NOW.mono + due_in_s, "lease_boot": "boot"}
    return {"state": "running", "owner": owner, "attempt": attempt, "step": step, "fence": fence, "progress": "", **lease}


@pytest.mark.parametrize(
    ("row", "activity", "words"),
    [
        (retrain(None, 0, "collect", 0, fence=0), "new", "begins"),
        (retrain(None, 0, "shadow", 0, fence=0), "new", "begins"),
        (retrain(this_process(), 1, "collect", 60), "worked_on", "runs"),
        (retrain("another host's process", 1, "reproduce", 60), "worked_on", "runs"),
        (retrain("another host's process", 1, "reproduce", 0), "abandoned", "was interrupted"),
        (retrain(GONE, 1, "collect", 60), "abandoned", "was interrupted"),
        (retrain(None, 1, "gate", 30), "paused", "waits for its next attempt"),
        (retrain(None, 1, "gate", 0), "abandoned", "was interrupted"),
        (retrain(None, 0, "gate", 30), "abandoned", "was interrupted"),
    ],
)
def test_a_retrain_runs_only_while_somebody_works_on_it(row: dict[str, Any], activity: Activity, words: str) -> None:
    assert find_activity(row, NOW) == activity
    assert describe_retrain(row, NOW) == words
