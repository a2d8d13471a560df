"""Turn replayed releases into rows of the report: power, labels, harmed requests, false refusals and what the rules cost."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.release.verdicts.planner import SimulatedVerdicts
from tests.bench.release.canaries import Ending, false_refusals
from tests.bench.release.controls import CONTROLS, Reaction, calibrate, react
from tests.bench.release.replay import Played
from tests.bench.release.worlds import Case
from tests.bench.report import CONFIDENCE, RESAMPLES, SEED, Bar, Ratio, Row

ARGO = next(iter(CONTROLS))
GOAL_LOSS = 0.02
BARS = {
    "R1": Bar("value", at_least=95), "R1 harm": Bar("ratio", at_least=3), "R1 labels": Bar("value", at_most=150),
    "R1 false": Bar("value", at_most=5), "K3b": Bar("value", at_most=1),
}  # fmt: skip
IS_GOAL = {"noise, 6 % differ": True, "lost classes": True}  # the others are shown beside the goal


class Compared(NamedTuple):
    """Releases of one case: ours, and what each control does with them."""

    played: Played
    reactions: Mapping[str, Reaction]


def compare(played: Sequence[Played], false_rollbacks: float) -> list[Compared]:
    """Calibrate every control on the equally good versions of a kind, and judge all of its versions."""
    result = []
    for one in played:
        equal = next(other for other in played if other.case.kind == one.case.kind and not other.case.lost)
        reactions = {}
        for name, statistic in CONTROLS.items():
            threshold = calibrate(statistic(equal.looks), false_rollbacks)
            reactions[name] = react(one, statistic(one.looks), threshold)
        result.append(Compared(one, reactions))
    return result


def to_rows(compared: Sequence[Compared]) -> list[Row]:
    """Return the rows of all kinds of versions."""
    rows = []
    for one in compared:
        if one.played.case.lost == GOAL_LOSS:
            rows += _worse_rows(one)
    for one in compared:
        if not one.played.case.lost:
            rows += _equal_rows(one)
    return rows + [_other_loss_row(one) for one in compared if one.played.case.lost not in (0.0, GOAL_LOSS)]


def canary_row(goal: str, what: str, endings: Sequence[Ending]) -> Row:
    """Return the share of whole releases of a good version that were refused or rolled back."""
    share, reasons = false_refusals(endings)
    why = ", ".join(f"{reason} {times}" for reason, times in reasons.most_common()) or "none"
    promoted = [ending.requests for ending in endings if ending.move == "promote"]
    half = f"half of them champion after {np.median(promoted):,.0f} requests" if promoted else "none champion"
    return Row(goal, f"{what}: refused or rolled back ({why}); {half}", 100 * share, "%", "", None, None, len(endings))


def estimate_row(disagreement: float, equal: SimulatedVerdicts, worse: SimulatedVerdicts) -> Row:
    """Return what it costs to refuse an undecided version for its estimate, and what it catches."""
    proved = (worse.is_refused & ~worse.is_low).mean()
    what = (
        f"{100 * disagreement:.0f} % differ: equally good versions refused for their estimate alone; "
        f"at −2 points {_percent(proved)} are refused with proof, {_percent(worse.is_refused.mean())} with the rule"
    )
    without = 100 * float((equal.is_refused & ~equal.is_low).mean())
    return Row("estimate", what, 100 * float(equal.is_low.mean()), "%", "refused with proof", without, None, len(equal.labels))


def mean_ratio(worse: NDArray[Any], better: NDArray[Any]) -> Ratio | None:
    """Return mean / mean over paired releases with its percentile bootstrap interval, None when nothing harms.

    A resample in which nothing harms counts as one harmed request.
    """
    if not better.any():
        return None
    draws = np.random.default_rng(SEED).integers(0, len(better), size=(RESAMPLES // 10, len(better)))
    least = 1 / len(better)
    ratios = worse[draws].mean(axis=1) / np.maximum(better[draws].mean(axis=1), least)
    low, high = np.percentile(ratios, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Ratio(float(worse.mean() / better.mean()), float(low), float(high), len(better))


def mean_interval_of(values: NDArray[Any]) -> tuple[float, float, float]:
    """Return the mean and the bounds of its normal 95 % interval."""
    half = 1.96 * float(values.std()) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def label(case: Case) -> str:
    """Return the kind of a case and the accuracy that it loses."""
    return f"{case.kind}, −{100 * case.lost:.0f} points" if case.lost else f"{case.kind}, equally good"


def _worse_rows(one: Compared) -> list[Row]:
    case, verdicts, releases = one.played.case, one.played.verdicts, len(one.played.harmed)
    is_goal, argo = IS_GOAL.get(case.kind, False), one.reactions[ARGO]
    labels = verdicts.labels[verdicts.is_refused]
    spread = f"labels: median {np.median(labels):.0f}, P90 {np.percentile(labels, 90):.0f}"
    others = "; ".join(
        f"{name} {_percent(reaction.is_rolled_back.mean())} with {np.median(reaction.labels):,.0f} labels"
        for name, reaction in one.reactions.items()
    )
    ours, theirs = mean_interval_of(one.played.harmed), mean_interval_of(argo.harmed)
    harm = f"{label(case)}: harmed requests a release, {_interval(ours)}; {ARGO} {_interval(theirs)}"
    ratio = mean_ratio(argo.harmed, one.played.harmed)
    power, control_power = 100 * float(verdicts.is_refused.mean()), 100 * float(argo.is_rolled_back.mean())
    return [
        Row("R1" if is_goal else "R1 more", f"{label(case)}: refused; {others}", power, "%", ARGO, control_power, None, releases),
        Row("R1 harm" if is_goal else "R1 more", harm, ours[0], "requests", ARGO, theirs[0], ratio, releases),
        Row(
            "R1 labels" if is_goal else "R1 more",
            f"{label(case)}: {spread}; the control has all labels of both arms",
            float(np.median(labels)),
            "labels",
            ARGO,
            float(np.median(argo.labels)),
            None,
            releases,
        ),
    ]


def _equal_rows(one: Compared) -> list[Row]:
    case, verdicts, releases = one.played.case, one.played.verdicts, len(one.played.harmed)
    promoted = one.played.promoted_at[np.isfinite(one.played.promoted_at)]
    undecided = (~verdicts.is_refused & ~verdicts.is_proved).mean()
    what = (
        f"{label(case)}: refused in the shadow, {_percent(verdicts.is_low.mean())} for the estimate alone; {_percent(undecided)} "
        f"undecided; {np.median(verdicts.labels):.0f} labels and {np.median(verdicts.texts):,.0f} texts until the verdict, "
        f"champion after {np.median(promoted) if len(promoted) else np.inf:,.0f} requests"
    )
    goal = "R1 false" if IS_GOAL.get(case.kind, False) else "R1 more"
    return [Row(goal, what, 100 * float(verdicts.is_refused.mean()), "%", "every control", 5.0, None, releases)]


def _other_loss_row(one: Compared) -> Row:
    case, verdicts, argo = one.played.case, one.played.verdicts, one.reactions[ARGO]
    others = "; ".join(f"{name} {_percent(reaction.is_rolled_back.mean())}" for name, reaction in one.reactions.items())
    harmed = f"harmed {_interval(mean_interval_of(one.played.harmed))}, {ARGO} {argo.harmed.mean():.1f}"
    what = f"{label(case)}: refused; {others}; median {np.median(verdicts.labels):.0f} labels; {harmed}"
    power, control_power = 100 * float(verdicts.is_refused.mean()), 100 * float(argo.is_rolled_back.mean())
    return Row("R1 more", what, power, "%", ARGO, control_power, mean_ratio(argo.harmed, one.played.harmed), len(argo.harmed))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.1f} [{values[1]:.1f}, {values[2]:.1f}]"
