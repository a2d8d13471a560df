"""Who works on a running retrain: read off its lease in the state database, and the words for it. Decides nothing."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from monitoring.clock import Moment, is_past
from pipeline.process_identity import is_gone

RETRAIN_NOW, CANCEL = ".venv/bin/evergreen retrain", ".venv/bin/evergreen retrain --cancel"
RELEASE_STEPS = ("shadow", "canary", "promote")  # of a retrain whose model is published
Retrain = Mapping[Any, Any]  # a row of the table `retrains`
Activity = Literal["new", "worked_on", "paused", "abandoned"]


def is_claimable(owner: str | None, lease_end: Moment, now: Moment) -> bool:
    """Return whether a controller may take a retrain: its pause or its lease is over, or its owner's process has ended."""
    return is_past(lease_end, now) or (owner is not None and is_gone(owner))


def find_activity(retrain: Retrain, now: Moment) -> Activity:
    """Return what happens to a running retrain.

    `new`: no controller has taken it yet; `worked_on`: a controller works on it; `paused`: a step failed, and its next attempt is
    not due yet; `abandoned`: nobody works on it.
    """
    owner, attempt = retrain["owner"], retrain["attempt"]
    is_held = not is_claimable(owner, Moment(*(retrain[f"lease_{part}"] for part in Moment._fields)), now)
    if is_held and owner is not None:
        return "worked_on"
    if owner is None and not attempt:
        return "abandoned" if retrain["fence"] else "new"
    return "paused" if is_held else "abandoned"


def describe_running(retrain: Retrain, now: Moment) -> str:
    """Say what a running retrain does now, and who works on it; never that it runs when nobody does."""
    step, activity = retrain["step"], find_activity(retrain, now)
    if activity == "worked_on":
        tells = step in ("reproduce", *RELEASE_STEPS) and retrain["progress"]
        return f"step {step}" + (f", {retrain['progress']}" if tells else "")
    if activity == "paused":
        return f"step {step} failed; the next attempt is due at {datetime.fromtimestamp(retrain['lease_wall'], UTC):%H:%M:%S} UTC"
    return f"nobody works on it, at step {step}; to continue it: {RETRAIN_NOW}; to end it: {CANCEL}"
