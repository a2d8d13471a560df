"""Releases at every stage, with the evidence that their looks would have stored."""

from typing import Any

from monitoring.release.evidence import ReleaseEvidence
from monitoring.release.verdicts.guardrails import ArmLook, GuardrailEvidence, Look, first_guardrails, update_guardrails
from monitoring.release.verdicts.shadow import PairedEvidence, update_shadow
from pipeline.params import ReleaseSettings
from serving.arm_counts import ArmTotals, add_counts, bucket_of
from state.database import open_state
from tests.monitoring.console.published import HOSTILE

GIB = 2**30
FAST, SLOW = {bucket_of(9.0): 90, bucket_of(14.0): 10}, {bucket_of(30.0): 70, bucket_of(42.0): 30}
ANSWERS = {"champion": "track", "challenger": "refund", "label": "track"}
EXAMPLES = [{"prediction_id": f"p{n}", "text": f"I have waited {n} days for my parcel", **ANSWERS} for n in range(2, 12)]


def shadow_evidence(settings: ReleaseSettings, *, equal: int = 260, gained: int = 9, lost: int = 11) -> PairedEvidence:
    """Return what a shadow of mostly equal answers shows."""
    outcomes = [0] * equal + [1] * gained + [-1] * lost
    order = sorted(range(len(outcomes)), key=lambda place: (place * 7919) % len(outcomes))
    return update_shadow(PairedEvidence(), [outcomes[place] for place in order], settings)


def guardrails(settings: ReleaseSettings, *, is_slow: bool = False, looks: int = 4) -> GuardrailEvidence:
    """Return what the guardrails say after some looks; a slow challenger takes three times as long."""
    evidence = first_guardrails(shadow_evidence(settings), settings)
    for _ in range(looks):
        challenger = ArmLook(100, 1, 0, SLOW if is_slow else FAST)
        look = Look(challenger, ArmLook(100, 0, 0, FAST), 60, 5, (18, 20), (19, 20), 1.04 * GIB, 1.0 * GIB)
        evidence = update_guardrails(evidence, look, settings)
    return evidence


def evidence_of(settings: ReleaseSettings, **columns: Any) -> dict[str, Any]:
    """Return the stored evidence of a release that has compared texts, with further columns."""
    evidence = ReleaseEvidence(shadow_evidence(settings), compared=290, differing=31, waiting=11)
    return evidence._replace(**columns).to_json()


def canary(settings: ReleaseSettings, *, is_slow: bool = False) -> dict[str, Any]:
    """Return the columns of a release at its third step."""
    arms = {"challenger": ArmTotals(400, 4, 0, SLOW if is_slow else FAST), "baseline": ArmTotals(400, 0, 0, FAST)}
    evidence = evidence_of(
        settings, guardrails=guardrails(settings, is_slow=is_slow), canary_began_at=1.0, rung_answered=(300, 290), **arms
    )
    return {"stage": "canary", "rung": 2, "evidence": evidence}


def rolled_back(settings: ReleaseSettings) -> dict[str, Any]:
    """Return the columns of a release that was too slow."""
    reason = "answers slower than the baseline's 95th percentile: 100.0 %, at most 10.0 % are allowed"
    ended = {"stage": "ended", "outcome": "rolled_back", "reason": reason, "broken": "latency", "examples": EXAMPLES}
    return canary(settings, is_slow=True) | ended


def count_answers(home: Any, salt: str = "pepper") -> None:
    """Write the gateways' counts of a release."""
    totals = {
        "challenger": ArmTotals(400, 4, 0, SLOW),
        "baseline": ArmTotals(404, 0, 0, FAST),
        "shadow": ArmTotals(900, 0, 0, FAST),
    }
    with open_state(home) as engine, engine.begin() as connection:
        add_counts(connection, salt, totals)  # type: ignore[arg-type]


HOSTILE_EXAMPLES = [{"prediction_id": "p", "text": HOSTILE, "champion": HOSTILE, "challenger": "refund", "label": None}]
