"""Six guardrails of a canary: what the challenger's arm may not do more often than the baseline's at the same time.

Five are e-processes, each with a sixth of the guardrails' part of `release.false_rollbacks`. Memory is a limit: a process does
not outgrow it by chance.
"""

from collections.abc import Mapping
from math import log
from typing import Any, Literal, NamedTuple, get_args

from monitoring.release.verdicts.bets import log_e_share, share_at_most
from monitoring.release.verdicts.shadow import SHADOW_PART, PairedEvidence
from monitoring.release.verdicts.two_arms import ArmSample, TwoArms
from pipeline.params import ReleaseSettings

Guardrail = Literal["errors", "latency", "broken_answers", "disagreement", "feedback", "memory"]
GUARDRAILS: tuple[Guardrail, ...] = get_args(Guardrail)
SLOW = 0.05  # of the baseline's answers are slower than its 95th percentile
MIN_LATENCIES = 20  # of the baseline, before the percentile is read
MEMORY_LOOKS = 5  # in a row above the limit


class ArmLook(NamedTuple):
    """What one arm has answered since the last look."""

    answered: int = 0  # by the arm's version
    failed: int = 0  # beside them: the champion answered in its place
    broken: int = 0  # of the answered
    latencies: Mapping[int, int] = {}  # bucket → answers; a higher bucket is slower


class Look(NamedTuple):
    """What is new since the last look."""

    challenger: ArmLook = ArmLook()
    baseline: ArmLook = ArmLook()
    compared: int = 0  # the champion's texts that the challenger has answered too
    differing: int = 0  # of them, with other labels
    judged: tuple[int, int] = (0, 0)  # (right, all) labels that nobody was asked for, of the challenger's answers
    baseline_judged: tuple[int, int] = (0, 0)
    memory: float | None = None  # bytes of the challenger's process
    first_memory: float | None = None  # likewise, at the first look of the canary


class GuardrailEvidence(NamedTuple):
    """The state of every guardrail; `first_guardrails` makes the first one."""

    forecast: float  # upper bound of the disagreement in the shadow
    errors: TwoArms = TwoArms()
    broken_answers: TwoArms = TwoArms()
    latency: TwoArms = TwoArms()  # the event: slower than the baseline's 95th percentile up to the look before
    feedback: TwoArms = TwoArms()  # the event: a wrong answer
    baseline_latencies: Mapping[int, int] = {}  # so far: bucket → answers
    compared: int = 0
    differing: int = 0
    memory: float | None = None
    first_memory: float | None = None
    looks_above: int = 0  # in a row, with memory above the limit
    tops: Mapping[str, float] = {}  # guardrail → the highest log e so far

    def to_json(self) -> dict[str, Any]:
        """Return the evidence as JSON stores it."""
        counted = {str(bucket): answers for bucket, answers in self.baseline_latencies.items()}
        return self._asdict() | {"baseline_latencies": counted, "tops": dict(self.tops)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "GuardrailEvidence":
        """Return the evidence that was stored."""
        arms = {name: _two_arms(stored[name]) for name in ("errors", "broken_answers", "latency", "feedback")}
        counted = {int(bucket): answers for bucket, answers in stored["baseline_latencies"].items()}
        return cls(**{**stored, **arms, "baseline_latencies": counted})


def first_guardrails(shadow: PairedEvidence, settings: ReleaseSettings) -> GuardrailEvidence:
    """Return the evidence at the start of a canary, with the shadow's forecast of disagreement."""
    return GuardrailEvidence(share_at_most(shadow.differing, shadow.pairs, _alpha(settings) / 2))


def guardrail_threshold(guardrail: Guardrail, settings: ReleaseSettings) -> float:
    """Return the log e at which a guardrail is broken; for memory, looks in a row."""
    if guardrail == "memory":
        return MEMORY_LOOKS
    alpha = _alpha(settings)
    return -log(alpha / 2 if guardrail == "disagreement" else alpha)  # the forecast has used the other half


def update_guardrails(evidence: GuardrailEvidence, look: Look, settings: ReleaseSettings) -> GuardrailEvidence:
    """Add what is new since the last look."""
    challenger, baseline = look.challenger, look.baseline
    memory = evidence.memory if look.memory is None else look.memory
    first_memory = evidence.first_memory if look.first_memory is None else look.first_memory
    updated = evidence._replace(
        errors=evidence.errors.add(_failures(challenger), _failures(baseline)),
        broken_answers=evidence.broken_answers.add(
            ArmSample(challenger.broken, challenger.answered), ArmSample(baseline.broken, baseline.answered)
        ),
        latency=_add_latencies(evidence, look),
        feedback=evidence.feedback.add(_mistakes(look.judged), _mistakes(look.baseline_judged)),
        baseline_latencies=_summed(evidence.baseline_latencies, baseline.latencies),
        compared=evidence.compared + look.compared,
        differing=evidence.differing + look.differing,
        memory=memory,
        first_memory=first_memory,
        looks_above=_looks_above(evidence, look, first_memory, settings),
    )
    log_e = _log_e(updated, settings)
    return updated._replace(tops={name: max(log_e[name], evidence.tops.get(name, 0.0)) for name in GUARDRAILS})


def broken_guardrail(evidence: GuardrailEvidence, settings: ReleaseSettings) -> Guardrail | None:
    """Return the guardrail that is furthest beyond its threshold, None while all hold."""
    beyond = {name: evidence.tops.get(name, 0.0) - guardrail_threshold(name, settings) for name in GUARDRAILS}
    worst = max(GUARDRAILS, key=lambda name: beyond[name])
    return worst if beyond[worst] >= 0 else None


def describe_guardrails(evidence: GuardrailEvidence, settings: ReleaseSettings) -> dict[Guardrail, dict[str, float | None]]:
    """Return a row a guardrail for pages: its evidence, and what was seen against what is allowed.

    `seen` and `allowed` are shares of answers, and bytes for memory; None: nothing to say yet. `answers` is what `seen` rests on.
    """
    limit = None if evidence.first_memory is None else settings.memory_growth * evidence.first_memory
    seen: dict[Guardrail, tuple[float | None, float | None, float]] = {
        "errors": _arms_row(evidence.errors, settings.failed_share),
        "latency": _arms_row(evidence.latency, _slow_excess(settings)),
        "broken_answers": _arms_row(evidence.broken_answers, settings.failed_share),
        "disagreement": (_share(evidence.differing, evidence.compared), _tolerated(evidence, settings), evidence.compared),
        "feedback": _arms_row(evidence.feedback, settings.lost_accuracy),
        "memory": (evidence.memory, limit, 0.0),
    }
    return {
        name: {
            "log_e": evidence.tops.get(name, 0.0),
            "log_threshold": guardrail_threshold(name, settings),
            "seen": seen[name][0],
            "allowed": seen[name][1],
            "answers": seen[name][2],
        }
        for name in GUARDRAILS
    }


def slow_after(latencies: Mapping[int, int]) -> int | None:
    """Return the bucket of the 95th percentile: answers in higher ones are slow. None with too few answers.

    >>> slow_after({10: 95, 20: 5}), slow_after({10: 94, 20: 6}), slow_after({10: 19})
    (10, 20, None)
    """
    total, counted = sum(latencies.values()), 0
    if total < MIN_LATENCIES:
        return None
    for bucket in sorted(latencies):
        counted += latencies[bucket]
        if total - counted <= SLOW * total:
            return bucket
    return None


def _alpha(settings: ReleaseSettings) -> float:
    return (1 - SHADOW_PART) * settings.false_rollbacks / len(GUARDRAILS)


def _slow_excess(settings: ReleaseSettings) -> float:
    return settings.slow_share - SLOW


def _tolerated(evidence: GuardrailEvidence, settings: ReleaseSettings) -> float:
    return min(1.0, evidence.forecast + settings.disagreement_growth)


def _log_e(evidence: GuardrailEvidence, settings: ReleaseSettings) -> dict[Guardrail, float]:
    return {
        "errors": evidence.errors.log_e(settings.failed_share),
        "latency": evidence.latency.log_e(_slow_excess(settings)),
        "broken_answers": evidence.broken_answers.log_e(settings.failed_share),
        "disagreement": log_e_share(_tolerated(evidence, settings), evidence.differing, evidence.compared),
        "feedback": evidence.feedback.log_e(settings.lost_accuracy),
        "memory": float(evidence.looks_above),
    }


def _failures(arm: ArmLook) -> ArmSample:
    return ArmSample(arm.failed, arm.failed + arm.answered)


def _mistakes(judged: tuple[int, int]) -> ArmSample:
    right, every = judged
    return ArmSample(every - right, every)


def _add_latencies(evidence: GuardrailEvidence, look: Look) -> TwoArms:
    """Count slow answers; the percentile comes from looks before this one, so that no bet knows its outcome."""
    slow = slow_after(evidence.baseline_latencies)
    if slow is None:
        return evidence.latency
    return evidence.latency.add(_slow_answers(look.challenger, slow), _slow_answers(look.baseline, slow))


def _slow_answers(arm: ArmLook, slow: int) -> ArmSample:
    return ArmSample(sum(n for bucket, n in arm.latencies.items() if bucket > slow), sum(arm.latencies.values()))


def _looks_above(evidence: GuardrailEvidence, look: Look, first_memory: float | None, settings: ReleaseSettings) -> int:
    if look.memory is None or first_memory is None:
        return evidence.looks_above
    return evidence.looks_above + 1 if look.memory > settings.memory_growth * first_memory else 0


def _summed(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {bucket: one.get(bucket, 0) + other.get(bucket, 0) for bucket in sorted({*one, *other})}


def _share(hits: float, answers: float) -> float | None:
    return hits / answers if answers else None


def _arms_row(arms: TwoArms, allowed: float) -> tuple[float | None, float | None, float]:
    if not arms.pairs:
        return None, None, 0.0
    seen, baseline = arms.shares
    return seen, baseline + allowed, arms.pairs


def _two_arms(stored: list[Any]) -> TwoArms:
    pairs, hits, baseline_hits, waiting, baseline_waiting = stored
    return TwoArms(pairs, hits, baseline_hits, ArmSample(*waiting), ArmSample(*baseline_waiting))
