"""Evidence and accuracy over time as the state database holds them: the monitor's windows and its judgements of labels."""

from collections import defaultdict
from datetime import UTC
from itertools import pairwise
from statistics import NormalDist, median

import sqlalchemy as sa

from monitoring.charts.lines import PlotLine, TimeAxis
from monitoring.detectors.wilson import wilson_interval
from monitoring.retrain.decision_inputs import reference_accuracy
from monitoring.retrain.history.sources import Sources
from pipeline.params import Monitor
from serving.release.manifest import model_name, repository
from state.tables import feedback, judgements, signals, windows


def stored_evidence(sources: Sources, axis: TimeAxis) -> dict[str, list[tuple[float, float]]]:
    """Return log e-value over threshold by signal: the highest of each step."""
    same = (signals.c.version == windows.c.version) & (signals.c.number == windows.c.number)
    query = (
        sa.select(windows.c.ended_at, signals.c.signal, signals.c.log_e, signals.c.log_threshold)
        .join_from(windows, signals, same)
        .where(windows.c.ended_at.between(axis.start, axis.end), signals.c.log_threshold > 0)
        .order_by(windows.c.ended_at)
    )
    highest: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for row in sources.rows(query, windows, signals):
        at, ratio, steps = row["ended_at"], row["log_e"] / row["log_threshold"], highest[row["signal"]]
        step = int((at - axis.start) // axis.step_s)
        steps[step] = (at, max(ratio, steps[step][1] if step in steps else ratio))
    return {signal: list(steps.values()) for signal, steps in highest.items()}


def stored_estimate(sources: Sources, axis: TimeAxis) -> PlotLine:
    """Return the accuracy estimated without labels: the mean of the windows of each step; the band holds all their bounds."""
    query = (
        sa.select(windows.c.ended_at, windows.c.accuracy_estimate, windows.c.accuracy_lower, windows.c.accuracy_upper)
        .where(windows.c.ended_at.between(axis.start, axis.end), windows.c.accuracy_estimate.is_not(None))
        .order_by(windows.c.ended_at)
    )
    steps: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    for row in sources.rows(query, windows):
        values = (row["ended_at"], row["accuracy_estimate"], row["accuracy_lower"], row["accuracy_upper"])
        steps[int((row["ended_at"] - axis.start) // axis.step_s)].append(values)
    points, band = [], []
    for group in steps.values():
        at, _, _, _ = group[-1]
        points.append((at, sum(estimate for _, estimate, _, _ in group) / len(group)))
        band.append((at, min(lower for *_, lower, _ in group), max(upper for *_, upper in group)))
    return PlotLine("estimated", points, 0, band, usual_s=usual_distance(points))


def stored_labelled(sources: Sources, axis: TimeAxis, settings: Monitor) -> PlotLine:
    """Return the accuracy by all labels of a version up to each step, with Wilson's interval; from `min_labels` labels on."""
    query = (
        sa.select(judgements.c.version, judgements.c.correct, feedback.c.received_at)
        .join_from(judgements, feedback, feedback.c.id == judgements.c.feedback_id)
        .order_by(feedback.c.received_at)
    )
    z = NormalDist().inv_cdf((1 + settings.confidence) / 2)
    right: dict[int, int] = defaultdict(int)
    total: dict[int, int] = defaultdict(int)
    steps: dict[int, tuple[float, float, float, float]] = {}
    for row in sources.rows(query, judgements, feedback):
        version, at = row["version"], row["received_at"].replace(tzinfo=row["received_at"].tzinfo or UTC).timestamp()
        right[version] += row["correct"]
        total[version] += 1
        if axis.start <= at <= axis.end and total[version] >= settings.min_labels:
            steps[int((at - axis.start) // axis.step_s)] = (at, *wilson_interval(right[version], total[version], z))
    points = [(at, estimate) for at, estimate, _, _ in steps.values()]
    band = [(at, lower, upper) for at, _, lower, upper in steps.values()]
    return PlotLine("by labels", points, 1, band, usual_s=usual_distance(points))


def stored_reference(sources: Sources, version: int) -> float | None:
    """Return a version's accuracy on its reference."""
    return reference_accuracy(repository(sources.home) / model_name(version))


def usual_distance(points: list[tuple[float, float]]) -> float:
    """Return the median distance between points in seconds; 0 for fewer than two."""
    return median(later[0] - earlier[0] for earlier, later in pairwise(points)) if len(points) > 1 else 0.0
