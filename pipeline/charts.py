"""Charts of runs, studies and gates: each function draws without a screen and returns a figure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREEN, GREY, RUST = "#2e7d4f", "#9aa0a6", "#b5542b"


def learning_curve(epochs: Sequence[dict[str, float]]) -> "Figure":
    """Draw losses on the left and validation scores on the right, over epochs."""
    figure = _figure(10, 4)
    losses, scores = figure.subplots(1, 2)
    x = [row["epoch"] for row in epochs]
    for key, colour in (("train_loss", GREY), ("val_loss", RUST)):
        losses.plot(x, [row[key] for row in epochs], marker="o", color=colour, label=key.replace("_", " "))
    for key, colour in (("val_accuracy", GREY), ("val_f1_macro", GREEN)):
        scores.plot(x, [row[key] for row in epochs], marker="o", color=colour, label=key.replace("_", " "))
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    return figure


def schedule(factors: Sequence[float], peaks: dict[str, float], note: str) -> "Figure":
    """Draw the planned learning rate of each parameter group over steps; the axis is logarithmic when rates differ much."""
    figure = _figure(8, 4)
    axes = figure.subplots()
    order = sorted(peaks, key=lambda name: -peaks[name])
    for position, name in enumerate(order):
        shade = 1 - 0.75 * position / max(1, len(order) - 1)
        axes.plot(range(1, len(factors) + 1), [peaks[name] * f for f in factors], color=GREEN, alpha=shade, label=name)
    if max(peaks.values()) > 20 * min(peaks.values()):
        axes.set_yscale("log")
    axes.set_title(note, fontsize=9, parse_math=False)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    return figure


def folds(scores: Sequence[float], overall: dict[str, float]) -> "Figure":
    """Draw the score of each fold, and mean ± standard deviation as a band."""
    mean, std = overall["mean"], overall["std"]
    figure = _figure(5, 4)
    axes = figure.subplots()
    axes.axhspan(mean - std, mean + std, color=GREY, alpha=0.2)
    axes.axhline(mean, color=GREY)
    axes.plot(range(1, len(scores) + 1), scores, "o", color=GREEN)
    axes.set_xticks(range(1, len(scores) + 1))
    axes.set_xlabel("fold")
    axes.set_ylabel(f"macro-F1 on the held-out rows: {mean:.3f} ± {std:.3f}")
    return figure


def confusion_matrix(matrix: NDArray[np.int64], labels: Sequence[str]) -> "Figure":
    """Draw the predicted share of each true class (row); write counts in the cells when classes are few."""
    side = max(6.0, 0.32 * len(labels) + 3)
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True)), cmap="Greens", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8, parse_math=False)  # labels may contain a $
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= 30:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            share = matrix[row, column] / matrix[row].sum()
            axes.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if share > 0.5 else "black",
            )
    return figure


def certainty(fifths: Sequence[Mapping[str, float]], accuracy: float) -> "Figure":
    """Draw the accuracy of spread labels on held-out rows by fifths of certainty, least certain first."""
    figure = _figure(6, 4)
    axes = figure.subplots()
    bars = axes.bar(range(len(fifths)), [part["accuracy"] for part in fifths], color=GREEN)
    axes.bar_label(bars, labels=[f"{part['rows']} rows" for part in fifths], padding=2, fontsize=8)
    axes.axhline(accuracy, color=GREY, label=f"all held-out rows: {accuracy:.3f}")
    axes.set_xticks(range(len(fifths)), [f"from {part['from']:.2f}" for part in fifths])
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("certainty of the spread label\n(spread.min_certainty drops labels below it)")
    axes.set_ylabel("accuracy of the spread label")
    axes.legend(frameon=False, loc="upper left")
    return figure


def reliability_diagram(before: Sequence[tuple[float, float, float]], after: Sequence[tuple[float, float, float]]) -> "Figure":
    """Draw accuracy over confidence, before and after temperature scaling; dot size is the share of rows."""
    figure = _figure(5, 5)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfectly calibrated")
    for points, colour, name in ((before, RUST, "as trained"), (after, GREEN, "calibrated")):
        confidence, accuracy, share = zip(*points, strict=True)
        axes.scatter(confidence, accuracy, s=[30 + 600 * s for s in share], color=colour, alpha=0.6, label=name)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, markerscale=0.5)
    return figure


def coverage_curves(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], rule: tuple[float, float] | None
) -> "Figure":
    """Draw the accuracy of the answers over the coverage, both of each curve; `rule` is the point at the fitted threshold."""
    figure = _figure(6, 4.5)
    axes = figure.subplots()
    for (name, curve), colour in zip(curves.items(), (GREEN, GREY), strict=True):
        axes.plot(*curve, color=colour, label=name)
    if rule:
        axes.plot(*rule, "o", color=RUST, label="at the threshold")
    axes.set_xlabel("coverage: share of test rows answered, most confident first")
    axes.set_ylabel("accuracy of the answers")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    return figure


def class_f1(names: Sequence[str], scores: Sequence[Any]) -> "Figure":
    """Draw the F1 of each class with its interval, worst at the top; `scores` are `metrics.ClassScores`."""
    order = sorted(range(len(names)), key=lambda i: -scores[i].f1.value)
    figure = _figure(8, max(4.0, 0.25 * len(names) + 1))
    axes = figure.subplots()
    for line, i in enumerate(order):
        f1 = scores[i].f1
        axes.plot([f1.low, f1.high], [line, line], color=GREY, linewidth=2)
        axes.plot(f1.value, line, "o", color=GREEN)
    axes.set_yticks(range(len(order)), [f"{names[i]} ({scores[i].rows})" for i in order], fontsize=8, parse_math=False)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("F1 on the test rows, with bootstrap interval (rows in brackets)")
    axes.grid(axis="x", alpha=0.25)
    return figure


def sessions(names: Sequence[str], texts_per_s: Sequence[float], chosen: str, refused: Sequence[str]) -> "Figure":
    """Draw the speed of each session that ran: the chosen one green, those that the gate refused rust."""
    figure = _figure(7, 0.5 * len(names) + 1.2)
    axes = figure.subplots()
    colours = [GREEN if name == chosen else RUST if name in refused else GREY for name in names]
    bars = axes.barh(range(len(names)), texts_per_s, color=colours)
    axes.bar_label(bars, labels=["refused" if name in refused else "" for name in names], padding=4, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("texts per second, on the threads of one instance")
    axes.grid(axis="x", alpha=0.25)
    return figure


def gained_and_lost(truth: NDArray[np.str_], champion: NDArray[np.str_], candidate: NDArray[np.str_]) -> "Figure":
    """Draw the rows of each true class that a candidate gained over the champion (right) and lost (left), most lost on top."""
    names = sorted(set(truth.tolist()))
    right = champion == truth, candidate == truth
    gained, lost = ([int((a & ~b & (truth == name)).sum()) for name in names] for a, b in (right[::-1], right))
    order = sorted(range(len(names)), key=lambda i: gained[i] - lost[i])
    figure = _figure(8, max(3.0, 0.25 * len(names) + 1))
    axes = figure.subplots()
    axes.barh(range(len(order)), [gained[i] for i in order], color=GREEN, label="gained")
    axes.barh(range(len(order)), [-lost[i] for i in order], color=RUST, label="lost")
    axes.axvline(0, color=GREY, linewidth=1)
    rows = [f"{names[i]} ({int((truth == names[i]).sum())})" for i in order]
    axes.set_yticks(range(len(order)), rows, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("test rows that only one of the two gets right (rows of the class in brackets)")
    axes.legend(frameon=False)
    axes.grid(axis="x", alpha=0.25)
    return figure


def arms(arms: Sequence[tuple[str, Mapping[str, Sequence[float]], float]], rows: Mapping[str, int]) -> "Figure":
    """Draw each arm (name, accuracy by side and seed, CPU seconds): accuracy with 95 % binomial bars, and its cost."""
    figure = _figure(11, 0.5 * len(arms) + 1.6)
    scores, costs = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    for line, (_, accuracy, cpu_s) in enumerate(arms):
        for side, colour, lift, name in (("val", GREY, -0.14, "validation"), ("test", GREEN, 0.14, "test")):
            values = 100 * np.asarray(accuracy[side])
            half_width = 1.96 * np.sqrt(values.mean() * (100 - values.mean()) / rows[side])
            scores.errorbar(values.mean(), line + lift, xerr=half_width, fmt="o", color=colour, capsize=3, label=name)
            if len(values) > 1:
                scores.plot(values, [line + lift] * len(values), "|", color=colour, markersize=10)
        costs.barh(line, cpu_s, color=GREY, height=0.5)
    scores.set_yticks(range(len(arms)), [name for name, _, _ in arms], parse_math=False)
    scores.invert_yaxis()
    scores.set_xlabel("accuracy, % (bars: 95 % by rows; ticks: seeds)")
    handles, names = scores.get_legend_handles_labels()
    scores.legend(handles[:2], names[:2], frameon=False, fontsize=8)
    costs.set_xlabel("CPU seconds of training steps")
    for axes in (scores, costs):
        axes.grid(axis="x", alpha=0.25)
    return figure


def backtest(
    evidence: Mapping[str, Sequence[tuple[float, float]]],
    limits: Mapping[str, float],
    spans: Mapping[str, Sequence[tuple[float, float, bool]]],
    starts: Mapping[str, Sequence[float]],
) -> "Figure":
    """Draw evidence over time against each policy's limit, and below it each policy's alarms and retrain starts.

    `evidence`: (Unix seconds, log e-value) by signal; `limits`: log thresholds; `spans`: (begin, end, is a stream alarm).
    """
    figure = _figure(10, 4.5 + 0.5 * len(spans))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 0.4 + 0.5 * len(spans)])
    for number, (signal, points) in enumerate(sorted(evidence.items())):
        times = [datetime.fromtimestamp(moment, UTC) for moment, _ in points]
        above.plot(times, [max(value, 0.0) for _, value in points], color=f"C{number}", linewidth=1.2, label=signal)
    for name, limit in limits.items():
        above.axhline(limit, color=GREY, linestyle="--", linewidth=1)
        above.annotate(
            name, (1, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, parse_math=False
        )
    above.set_ylabel("log e-value, highest in a window")
    if evidence:
        above.legend(frameon=False, fontsize=8, ncols=2)
    for line, (name, alarms) in enumerate(spans.items()):
        for begin, end, is_stream in alarms:
            moments = [datetime.fromtimestamp(moment, UTC) for moment in (begin, end)]
            below.plot(moments, [line, line], color=RUST if is_stream else GREY, linewidth=6, solid_capstyle="butt", alpha=0.7)
        marks = [datetime.fromtimestamp(moment, UTC) for moment in starts[name]]
        below.plot(marks, [line] * len(marks), "^", color=GREEN, markersize=9)
    below.set_yticks(range(len(spans)), list(spans), parse_math=False)  # a policy is named by what was typed
    below.set_ylim(len(spans) - 0.5, -0.5)
    below.set_xlabel("rust: stream alarm, grey: window alarm, green: a retrain would start (UTC)")
    for axes in (above, below):
        axes.grid(alpha=0.25)
    return figure


def _figure(width: float, height: float) -> "Figure":
    """Return an empty figure of this size in inches. Only a process that draws waits for matplotlib."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
