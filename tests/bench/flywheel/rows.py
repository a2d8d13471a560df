"""Turn played runs into rows of the report: gains per label with bootstrap intervals over paired seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.bench.flywheel.orders import OURS
from tests.bench.flywheel.play import BATCH, Plan, Turn
from tests.bench.flywheel.worlds import Annotator
from tests.bench.report import CONFIDENCE, RESAMPLES, SEED, Bar, Ratio, Row

Values = NDArray[np.float64]
Played = Mapping[Plan, Sequence[Turn]]
AT = 200  # labels
ARRIVING = 3  # intents a turn
BARS = {
    "F1a": Bar("ratio", at_least=5), "F1b": Bar("ratio", at_least=1.5), "F1 saved": Bar("value", at_least=60),
    "F1 wrong": Bar("ratio", at_least=1.5), "F2": Bar("value", at_least=12), "sure": Bar("value", at_least=97),
    "clusters": Bar("value", at_least=80),
}  # fmt: skip


def curve(played: Played, plans: Iterable[Plan], field: str) -> Values:
    """Return a quantity (seeds, turns + 1) of these runs, in the order of their seeds."""
    ordered = sorted(plans, key=lambda plan: plan.seed)
    return np.array([[getattr(turn, field) for turn in played[plan]] for plan in ordered])


def gain_ratio(better: Values, worse: Values) -> Ratio:
    """Return mean gain / mean gain over paired seeds with its percentile bootstrap interval; gains not above 0 count as tiny."""
    draws = np.random.default_rng(SEED).integers(0, len(better), size=(RESAMPLES, len(better)))
    ratios = better[draws].mean(axis=1) / np.maximum(worse[draws].mean(axis=1), 1e-3)
    low, high = np.percentile(ratios, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Ratio(float(better.mean() / max(worse.mean(), 1e-3)), float(low), float(high), len(better))


def mean_interval(values: Values) -> tuple[float, float, float]:
    """Return the mean and the bounds of its percentile bootstrap interval over seeds."""
    draws = np.random.default_rng(SEED).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(values.mean()), float(low), float(high)


def gains(recall: Values, labels: int = AT) -> Values:
    """Return the recall gained (seeds,) with this many labels."""
    return np.asarray(recall[:, labels // BATCH] - recall[:, 0])


def area(values: Values) -> Values:
    """Return the mean (seeds,) of a curve over labels, by trapezoids."""
    return np.asarray((values[:, 1:] + values[:, :-1]).mean(axis=1) / 2)


def labels_to_reach(accuracy: Values, targets: Values) -> Values:
    """Return the labels (seeds,) at which each accuracy curve first reaches its target, interpolated; NaN: never."""
    needed = []
    for line, target in zip(accuracy, targets, strict=True):
        above = np.flatnonzero(line >= target)
        if not len(above):
            needed.append(float("nan"))
            continue
        first = int(above[0])
        part = 0.0 if first == 0 else (target - line[first - 1]) / (line[first] - line[first - 1])
        needed.append(BATCH * (max(first - 1, 0) + part))
    return np.array(needed)


class Runs(NamedTuple):
    """Curves of the runs of one order."""

    recall: Values  # (seeds, turns + 1), of the rare intents
    accuracy: Values


def runs(played: Played, order: str, annotator: Annotator, arriving: int = 0) -> Runs:
    """Return the curves of an order with an annotator."""
    plans = [plan for plan in played if (plan.order, plan.annotator, plan.arriving) == (order, annotator, arriving)]
    return Runs(curve(played, plans, "rare_recall"), curve(played, plans, "accuracy"))


def to_rows(played: Played) -> list[Row]:
    """Return a row for each goal and condition."""
    rows = []
    right = Annotator(0.0, confuses=False)
    ours = runs(played, OURS, right)
    for order, goal in (("random", "F1a"), ("margin", "F1b"), ("core set", ""), ("largest disagreement", "")):
        rows.append(_gain_row(goal, "right labels", ours, order, runs(played, order, right)))
    rows += [_saved_row(ours, order, runs(played, order, right)) for order in ("random", "margin")]
    for annotator in sorted({plan.annotator for plan in played if plan.annotator.wrong}):
        wrong = f"{annotator.wrong:.0%} wrong, {'the most similar class' if annotator.confuses else 'any class'}"
        for order in ("random", "margin"):
            goal = "F1 wrong" if order == "random" and annotator.wrong >= 0.15 else ""
            rows.append(_gain_row(goal, wrong, runs(played, OURS, annotator), order, runs(played, order, annotator)))
    rows += [_turn_row("F2", played, 2, order) for order in ("random", "margin")]
    rows += [_turn_row("F2 unseen", played, 0, order) for order in ("random", "margin")]
    return [*rows, _saturating_row(played)]


def _gain_row(goal: str, condition: str, ours: Runs, order: str, control: Runs) -> Row:
    better, worse = gains(ours.recall), gains(control.recall)
    after = f"recall {100 * ours.recall[:, 0].mean():.1f} → {100 * ours.recall[:, AT // BATCH].mean():.1f}"
    under = f"area {100 * area(ours.recall).mean():.1f} and {100 * area(control.recall).mean():.1f}"
    what = f"rare recall gained with {AT} labels, {condition}: {after}; {under}"
    return Row(
        goal or "F1", what, 100 * better.mean(), "points", order, 100 * worse.mean(), gain_ratio(better, worse), len(better)
    )


def _saved_row(ours: Runs, order: str, control: Runs) -> Row:
    """Compare the labels until the accuracy that the control has after the last turn."""
    spent = BATCH * (control.accuracy.shape[1] - 1)
    needed = np.nan_to_num(labels_to_reach(ours.accuracy, control.accuracy[:, -1]), nan=float(spent))
    mean, low, high = mean_interval(100 * (1 - needed / spent))
    target = f"{100 * control.accuracy[:, -1].mean():.1f} %, which {order} order has after {spent}"
    what = f"labels saved until accuracy {target}: {mean:.0f} [{low:.0f}, {high:.0f}] %"
    ratio = gain_ratio(np.full(len(needed), float(spent)), np.maximum(needed, 1.0))
    return Row("F1 saved" if order == "random" else "F1", what, mean, "%", order, 0.0, ratio, len(needed))


def _turn_row(goal: str, played: Played, examples: int, order: str) -> Row:
    """Return the points of recall, over the rare intents that have arrived, that the labels of a turn bring."""

    def points(name: str) -> Values:
        plans = [plan for plan in played if (plan.order, plan.arriving, plan.examples) == (name, ARRIVING, examples)]
        before, after = (curve(played, plans, field)[:, :-1] for field in ("arrived", "arrived_after"))
        return np.asarray(100 * (after - before))

    ours, control = points(OURS), points(order)
    mean, low, high = mean_interval(ours.mean(axis=1))
    by_turn = ", ".join(f"{some:.1f}" for some in ours.mean(axis=0))
    condition = f"three intents arrive in each turn with {examples} labelled texts each"
    what = f"{condition}: {mean:.1f} [{low:.1f}, {high:.1f}] points of recall of the intents so far; by turn {by_turn}"
    ratio = gain_ratio(ours.mean(axis=1), control.mean(axis=1))
    return Row(goal, what, mean, "points a turn", order, float(control.mean()), ratio, len(ours))


def _saturating_row(played: Played) -> Row:
    """Return the points of recall of a turn when no intent arrives after the first one."""
    right = Annotator(0.0, confuses=False)
    ours, control = (np.diff(100 * runs(played, name, right).recall, axis=1) for name in (OURS, "random"))
    mean, low, high = mean_interval(ours.mean(axis=1))
    by_turn = ", ".join(f"{points:.1f}" for points in ours.mean(axis=0))
    what = f"all 15 intents are there from the start: {mean:.1f} [{low:.1f}, {high:.1f}] points of recall; by turn {by_turn}"
    ratio = gain_ratio(ours.mean(axis=1), control.mean(axis=1))
    return Row("F2 saturating", what, mean, "points a turn", "random", float(control.mean()), ratio, len(ours))
