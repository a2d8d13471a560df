"""What the page shows of one release: its stages, its tests, its arms and its labels. Reads no log and no model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from monitoring.charts.evidence import EvidenceBar, difference_chart, evidence_chart
from monitoring.charts.lines import LimitLine
from monitoring.charts.ticks import format_value
from monitoring.release.evidence import ReleaseEvidence, ShownTest, describe_stage, shown_tests, standing_of
from monitoring.release.runs import ReleaseRun
from monitoring.release.verdicts.shadow import describe_shadow
from pipeline.params import ReleaseSettings
from serving.arm_counts import Arm, ArmTotals, bucket_ms

MIB = 2**20
TESTS = {  # name → in a word, and in a line
    "worse": ("Worse", "less accurate than the champion"),
    "not_worse": ("Not worse", "loses less than the margin"),
    "errors": ("Errors", "fails to answer more often than the baseline"),
    "latency": ("Slow answers", "slower than the baseline's 95th percentile"),
    "broken_answers": ("Broken answers", "no label, or no confidence"),
    "disagreement": ("Disagreement", "differs from the champion more often than in the shadow"),
    "feedback": ("Feedback", "wrong more often than the baseline, by labels that nobody was asked for"),
    "memory": ("Memory", "its process grows"),
}
DIFFERENCES = ("worse", "not_worse")  # of accuracies; the others compare shares of answers, or bytes
ARM_NAMES: dict[Arm, str] = {
    "challenger": "the new version",
    "baseline": "baseline: the champion, for as many units",
    "champion": "the champion, for everybody else",
    "shadow": "copies to the new version, whose answers nobody gets",
}
STANDS = {"done": "done", "now": "now", "failed": "ended here", "ahead": "not begun"}


class StageMark(NamedTuple):
    """A stage or a step of the canary on the way to champion."""

    name: str
    stands: str  # a key of `STANDS`
    detail: str

    @property
    def in_words(self) -> str:
        """Return how it stands."""
        return STANDS[self.stands]


class EvidenceRow(NamedTuple):
    """A test in the table."""

    name: str
    about: str
    seen: str
    allowed: str
    log_e: str
    log_threshold: str
    is_over: bool
    is_good: bool  # the version goes on once it is over


class ArmRow(NamedTuple):
    """What an arm has answered."""

    name: str
    answered: int
    failed: int
    broken: int
    p50: str
    p95: str


class ShownRelease(NamedTuple):
    """One release for the page."""

    run: ReleaseRun
    in_words: str
    stages: Sequence[StageMark]
    tests: Sequence[EvidenceRow]
    evidence: Markup
    difference: Markup  # empty without a compared text
    arms: Sequence[ArmRow]
    share: float  # of units that the new version answers now
    compared: int
    differing: int
    labels: int
    waiting: int

    @property
    def is_running(self) -> bool:
        """Return whether it has no outcome yet."""
        return self.run.outcome is None


def show_release(run: ReleaseRun, counts: Mapping[Arm, ArmTotals], settings: ReleaseSettings) -> ShownRelease:
    """Put together what a release shows, from its row and the gateways' counts."""
    evidence = ReleaseEvidence.from_json(run.evidence)
    tests = shown_tests(evidence, settings)
    seen = describe_shadow(evidence.shadow)
    in_canary = run.outcome is None and run.stage == "canary"
    return ShownRelease(
        run=run,
        in_words=describe_stage(run, settings),
        stages=stage_marks(run, evidence, settings),
        tests=[evidence_row(test, run.broken) for test in tests],
        evidence=evidence_chart(
            [evidence_bar(test, run.broken) for test in tests], title="Evidence of each test over its threshold"
        ),
        difference=accuracy_difference(seen, settings) if evidence.shadow.pairs else Markup(),
        arms=[arm_row(arm, counts[arm]) for arm in ARM_NAMES if counts[arm].answered or counts[arm].failed],
        share=settings.shares[min(run.rung, len(settings.shares) - 1)] if in_canary else 0.0,
        compared=evidence.compared,
        differing=evidence.differing,
        labels=int(seen["labelled"]),
        waiting=evidence.waiting if run.outcome is None and run.stage == "shadow" else 0,
    )


def stage_marks(run: ReleaseRun, evidence: ReleaseEvidence, settings: ReleaseSettings) -> list[StageMark]:
    """Return the way to champion: shadow, each step of the canary, champion; and how far the release has come on it."""
    names = ["Shadow", *(f"{share:.0%} of units" if share >= 0.01 else f"{share:.1%} of units" for share in settings.shares)]
    names.append("Champion")
    at = 0 if evidence.guardrails is None and run.stage != "canary" else 1 + min(run.rung, len(settings.shares) - 1)
    if run.outcome == "promoted":
        at = len(names)
    details = [""] * len(names)
    if run.outcome is None:
        details[at] = stage_detail(run, evidence, settings)
    here = "now" if run.outcome is None else "failed"
    stands = ["done" if number < at else here if number == at else "ahead" for number in range(len(names))]
    return [StageMark(*mark) for mark in zip(names, stands, details, strict=True)]


def stage_detail(run: ReleaseRun, evidence: ReleaseEvidence, settings: ReleaseSettings) -> str:
    """Return what the stage of now counts up to."""
    if run.stage == "shadow":
        return f"{evidence.shadow.differing} of {settings.labels} labels"
    standing = standing_of(run, evidence)
    return f"{min(standing.answered, standing.baseline_answered)} of {settings.step_answers} answers"


def evidence_bar(test: ShownTest, broken: str | None) -> EvidenceBar:
    """Return a test's evidence over its threshold."""
    kind = "good" if test.name == "not_worse" else "bad" if is_over(test, broken) else "neutral"
    value = f"{evidence_text(test)} of {threshold_text(test)}"
    return EvidenceBar(TESTS[test.name][0], test.log_e / test.log_threshold, value, kind)


def evidence_row(test: ShownTest, broken: str | None) -> EvidenceRow:
    """Return a test with its numbers as texts."""
    return EvidenceRow(
        *TESTS[test.name],
        measured(test.name, test.seen),
        limit_text(test),
        evidence_text(test),
        threshold_text(test),
        is_over(test, broken),
        test.name == "not_worse",
    )


def is_over(test: ShownTest, broken: str | None) -> bool:
    """Return whether a test has reached its threshold."""
    return test.name == broken or test.log_e >= test.log_threshold


def measured(name: str, value: float | None) -> str:
    """Format what a test compares: points of accuracy, a share of answers, or memory."""
    if value is None:
        return "–"
    if name == "memory":
        return f"{value / MIB:,.0f} MiB"
    return f"{100 * value:+.1f} points" if name in DIFFERENCES else f"{100 * value:.1f}%"


def limit_text(test: ShownTest) -> str:
    """Return what is allowed, in words."""
    if test.allowed is None:
        return "–"
    if test.name == "worse":
        return "no loss that is proved"
    if test.name == "not_worse":
        return f"a loss of less than {100 * -test.allowed:.1f} points"
    return f"at most {measured(test.name, test.allowed)}"


def evidence_text(test: ShownTest) -> str:
    """Return log e; for memory, looks in a row above the limit."""
    return f"{test.log_e:.0f}" if test.name == "memory" else f"{test.log_e:.2f}"


def threshold_text(test: ShownTest) -> str:
    """Return the threshold in the same unit."""
    return f"{test.log_threshold:.0f} looks" if test.name == "memory" else f"{test.log_threshold:.2f}"


def accuracy_difference(seen: Mapping[str, float], settings: ReleaseSettings) -> Markup:
    """Draw the challenger's accuracy minus the champion's, against no difference and the margin."""
    limits = [LimitLine(0.0, "equal", is_alarm=False), LimitLine(-settings.margin, "margin")]
    return difference_chart(
        seen["estimate"], (seen["lower"], seen["upper"]), limits, title="Accuracy, new version minus champion"
    )


def arm_row(arm: Arm, totals: ArmTotals) -> ArmRow:
    """Return what an arm has answered, with its median and 95th percentile of latency."""
    quantiles = (latency_text(totals.latencies, share) for share in (0.5, 0.95))
    return ArmRow(ARM_NAMES[arm], totals.answered, totals.failed, totals.broken, *quantiles)


def latency_text(latencies: Mapping[int, int], share: float) -> str:
    """Return a quantile of the latencies, the upper end of its bucket.

    >>> latency_text({40: 90, 50: 10}, 0.95)
    '11.7 ms'
    """
    counted, wanted = 0, share * sum(latencies.values())
    for bucket in sorted(latencies):
        counted += latencies[bucket]
        if counted >= wanted > 0:
            return format_value(bucket_ms(bucket) / 1000, "s")
    return "–"
