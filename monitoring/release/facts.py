"""A release as facts for people: where it stands, its evidence, how it ended. For `evergreen status` and `why`."""

from datetime import UTC, datetime

from monitoring.release.evidence import ReleaseEvidence, ShownTest, describe_stage, shown_tests
from monitoring.release.runs import ReleaseRun
from monitoring.release.verdicts.shadow import describe_shadow
from pipeline.params import ReleaseSettings

MIB = 2**20
NAMES = {"worse": "proved worse", "not_worse": "proved not worse"}
Facts = list[tuple[str, str]]


def release_facts(run: ReleaseRun, settings: ReleaseSettings) -> Facts:
    """Return a release's facts, in reading order."""
    evidence = ReleaseEvidence.from_json(run.evidence)
    facts = [("stage", describe_stage(run, settings)) if run.outcome is None else ("ended", f"{_clock(run.ended_at)}")]
    if run.outcome is not None:
        facts.append(("outcome", describe_stage(run, settings)))
    facts.append(("began", f"{_clock(run.began_at)}, version {run.version} against champion {run.champion}"))
    if evidence.shadow.pairs:
        facts.append(("accuracy", describe_difference(evidence)))
    facts += [("test", describe_test(test)) for test in shown_tests(evidence, settings)]
    facts += [("example", _example(run, number)) for number in range(len(run.examples))]
    return facts


def mlflow_verdict(run: ReleaseRun, settings: ReleaseSettings) -> tuple[dict[str, object], dict[str, float]]:
    """Return tags and metrics for the run in which the released model was made."""
    evidence = ReleaseEvidence.from_json(run.evidence)
    tags: dict[str, object] = {"evergreen.release": run.outcome, "evergreen.release.broken": run.broken}
    shadow = {f"release.{name}": value for name, value in describe_shadow(evidence.shadow).items()}
    tests = {f"release.log_e.{test.name}": test.log_e for test in shown_tests(evidence, settings)}
    return tags, (shadow if evidence.shadow.pairs else {}) | tests


def describe_difference(evidence: ReleaseEvidence) -> str:
    """Return the challenger's accuracy against the champion's, with its interval."""
    seen = describe_shadow(evidence.shadow)
    interval = f"{seen['lower']:+.1%} to {seen['upper']:+.1%}"
    return f"{seen['estimate']:+.1%} ({interval}), on {seen['pairs']:.0f} texts, {seen['labelled']:.0f} of them labelled"


def describe_test(test: ShownTest) -> str:
    """Return a test's evidence against its threshold, and what was seen against what is allowed."""
    name = NAMES.get(test.name, f"guardrail {test.name}")
    if test.name == "memory":
        limits = "" if test.seen is None or test.allowed is None else f": {test.seen / MIB:.0f} of {test.allowed / MIB:.0f} MiB"
        return f"{name}{limits}; {test.log_e:.0f} of {test.log_threshold:.0f} looks above"
    limits = "" if test.seen is None or test.allowed is None else f": {test.seen:.1%} seen, limit {test.allowed:.1%}"
    return f"{name}{limits}; evidence {test.log_e:.1f} of {test.log_threshold:.1f}"


def _example(run: ReleaseRun, number: int) -> str:
    example = run.examples[number]
    label = f"; people say {example.label}" if example.label else ""
    return f"“{example.text}”: {example.champion}, the challenger {example.challenger}{label}"


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
