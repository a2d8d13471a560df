"""Sentences that say why a release ended. Pure."""

from monitoring.release.evidence import ReleaseEvidence, ShownTest, shown_tests
from monitoring.release.verdicts.shadow import describe_shadow
from pipeline.params import ReleaseSettings

MIB = 2**20
BROKEN = {
    "errors": "requests of the challenger's units failed (the champion answered them)",
    "latency": "its answers are slower than the baseline's 95th percentile",
    "broken_answers": "its answers have no label or no number as confidence",
    "disagreement": "its answers differ from the champion's more often than in the shadow",
    "feedback": "its answers are wrong by labels that nobody was asked for",
    "memory": "the memory of its process grows",
}


def describe_refusal(evidence: ReleaseEvidence, broken: str | None, settings: ReleaseSettings) -> str:
    """Return why a release is refused or rolled back: the guardrail that broke, else the shadow's verdict."""
    if broken is None:
        return _describe_shadow(evidence, settings)
    test = next(test for test in shown_tests(evidence, settings) if test.name == broken)
    return f"guardrail {broken}: {BROKEN.get(broken, broken)}{_seen(test)}; evidence {test.log_e:.1f} of {test.log_threshold:.1f}"


def _seen(test: ShownTest) -> str:
    if test.seen is None or test.allowed is None:
        return ""
    if test.name == "memory":
        return f": {test.seen / MIB:.0f} MiB, at most {test.allowed / MIB:.0f} allowed"
    return f": {test.seen:.1%} of them, at most {test.allowed:.1%} allowed"


def _describe_shadow(evidence: ReleaseEvidence, settings: ReleaseSettings) -> str:
    seen = describe_shadow(evidence.shadow)
    interval = f"{seen['estimate']:+.1%} (95 % interval {seen['lower']:+.1%} to {seen['upper']:+.1%})"
    counts = f"{seen['pairs']:.0f} texts, {seen['labelled']:.0f} of them labelled because the answers differ"
    (worse, *_) = shown_tests(evidence, settings)
    verdict = "proved worse than the champion" if worse.log_e >= worse.log_threshold else "not shown to be good enough"
    return f"{verdict} on live traffic: accuracy {interval}, on {counts}"
