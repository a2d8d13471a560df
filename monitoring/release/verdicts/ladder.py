"""Decide the next move of a gradual release from its verdicts. Pure.

Moves that protect callers come first: a pause holds back what would give the challenger more requests, never a roll-back.
"""

from typing import Literal, NamedTuple

from monitoring.release.verdicts.guardrails import Guardrail
from monitoring.release.verdicts.shadow import ShadowVerdict
from pipeline.params import ReleaseSettings

Move = Literal["wait", "refuse", "start_canary", "step_up", "roll_back", "promote", "abort"]


class Standing(NamedTuple):
    """How far a release has come."""

    stage: Literal["shadow", "canary"]
    rung: int = 0  # of release.steps, from 0
    answered: int = 0  # by the challenger, at this rung
    baseline_answered: int = 0


def decide_move(
    standing: Standing,
    shadow_verdict: ShadowVerdict,
    broken: Guardrail | None,
    settings: ReleaseSettings,
    *,
    wish: Literal["none", "pause", "abort"],
) -> Move:
    """Return what the release does next.

    In the canary the shadow's test goes on: `worse` rolls back there too. A step ends after `step_answers` of each arm.
    """
    in_shadow = standing.stage == "shadow"
    if broken or shadow_verdict == "worse":
        return "refuse" if in_shadow else "roll_back"
    if wish == "abort":
        return "abort"
    if in_shadow and shadow_verdict == "undecided" and settings.undecided == "refuse":
        return "refuse"
    if wish == "pause":
        return "wait"
    if in_shadow:
        return "wait" if shadow_verdict == "open" else "start_canary"
    if min(standing.answered, standing.baseline_answered) < settings.step_answers:
        return "wait"
    return "step_up" if standing.rung + 1 < len(settings.shares) else "promote"
