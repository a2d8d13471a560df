"""Everything that a release has seen, as its row stores it and as pages show it. Decides nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from monitoring.release.runs import ReleaseRun
from monitoring.release.verdicts.guardrails import GuardrailEvidence, describe_guardrails
from monitoring.release.verdicts.ladder import Standing
from monitoring.release.verdicts.shadow import PairedEvidence, describe_shadow, shadow_thresholds
from pipeline.params import ReleaseSettings
from serving.arm_counts import ArmTotals


class ReleaseEvidence(NamedTuple):
    """The state of the tests, and what the gateways and the log had counted at the last look."""

    shadow: PairedEvidence = PairedEvidence()
    guardrails: GuardrailEvidence | None = None  # None: the canary has not begun
    challenger: ArmTotals = ArmTotals()
    baseline: ArmTotals = ArmTotals()
    canary_began_at: float | None = None  # seconds of the epoch
    rung_answered: tuple[int, int] = (0, 0)  # by both arms, before the rung began
    compared: int = 0  # texts in the log that both versions have answered
    differing: int = 0
    waiting: int = 0  # of them texts that wait for a label
    feedback_upto: int = 0  # last row of `feedback` that was judged

    def to_json(self) -> dict[str, Any]:
        """Return the evidence as JSON stores it."""
        guardrails = self.guardrails and self.guardrails.to_json()
        arms = {name: _totals_to_json(getattr(self, name)) for name in ("challenger", "baseline")}
        return self._asdict() | {"shadow": self.shadow.to_json(), "guardrails": guardrails} | arms

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ReleaseEvidence":
        """Return the evidence that was stored; an empty mapping is the empty evidence."""
        if not stored:
            return cls()
        guardrails = stored["guardrails"] and GuardrailEvidence.from_json(stored["guardrails"])
        arms = {name: _totals_from_json(stored[name]) for name in ("challenger", "baseline")}
        tests = {"shadow": PairedEvidence.from_json(stored["shadow"]), "guardrails": guardrails}
        return cls(**{**stored, **tests, **arms, "rung_answered": tuple(stored["rung_answered"])})


def standing_of(run: ReleaseRun, evidence: ReleaseEvidence) -> Standing:
    """Return how far a running release has come."""
    if run.stage == "shadow":
        return Standing("shadow")
    before, baseline_before = evidence.rung_answered
    answered, baseline_answered = evidence.challenger.answered - before, evidence.baseline.answered - baseline_before
    return Standing("canary", run.rung, answered, baseline_answered)


class ShownTest(NamedTuple):
    """One test of a release for people: its evidence, and what was seen against what is allowed."""

    name: str  # worse, not_worse, or a guardrail
    log_e: float
    log_threshold: float
    seen: float | None = None  # a share of answers; bytes for memory; None: nothing to say yet
    allowed: float | None = None


def shown_tests(evidence: ReleaseEvidence, settings: ReleaseSettings) -> list[ShownTest]:
    """Return every test that has begun, those of the shadow first."""
    needed, shadow = shadow_thresholds(settings), evidence.shadow
    lost = shadow.estimate if shadow.pairs else None
    tests = [
        ShownTest("worse", shadow.top_worse, needed.worse, lost, 0.0),
        ShownTest("not_worse", shadow.top_not_worse, needed.not_worse, lost, -settings.margin),
    ]
    rows = describe_guardrails(evidence.guardrails, settings) if evidence.guardrails else {}
    return tests + [ShownTest(name, **{field: row[field] for field in ShownTest._fields[1:]}) for name, row in rows.items()]  # type: ignore[arg-type]


def describe_stage(run: ReleaseRun, settings: ReleaseSettings) -> str:
    """Say in words where a release stands and what it waits for, or how it ended."""
    if run.outcome is not None:
        return f"{run.outcome.replace('_', ' ')}: {run.reason}"
    evidence = ReleaseEvidence.from_json(run.evidence)
    held = {"pause": "paused by a person; ", "abort": "a person ends it; ", "none": ""}[run.wish]
    if run.stage == "shadow":
        seen = describe_shadow(evidence.shadow)
        waits = f"; {evidence.waiting} texts wait for a label" if evidence.waiting else ""
        pairs = f"{seen['pairs']:.0f} texts compared, {seen['labelled']:.0f} of at most {settings.labels} labels"
        return f"{held}shadow: {pairs}{waits}"
    standing, share = standing_of(run, evidence), settings.shares[min(run.rung, len(settings.shares) - 1)]
    of_all = f"step {run.rung + 1} of {len(settings.shares)}, {share:.0%} of units"
    answers = f"{standing.answered} answers and {standing.baseline_answered} of the baseline, of {settings.step_answers} each"
    return f"{held}canary: {of_all}; {answers}"


def _totals_to_json(totals: ArmTotals) -> list[Any]:
    return [totals.answered, totals.failed, totals.broken, {str(bucket): n for bucket, n in totals.latencies.items()}]


def _totals_from_json(stored: list[Any]) -> ArmTotals:
    answered, failed, broken, latencies = stored
    return ArmTotals(answered, failed, broken, {int(bucket): n for bucket, n in latencies.items()})
