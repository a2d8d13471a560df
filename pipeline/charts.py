"""Pictures for the places where people would rather look: drawn without a screen, given back as figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

GREEN, GREY, RUST = "#2e7d4f", "#9aa0a6", "#b5542b"


def learning_curve(epochs: Sequence[dict[str, float]]) -> Figure:
    """Losses on the left, validation scores on the right, over epochs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
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


def confusion_matrix(matrix: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Shares of each true class (row); counts are written where classes are few enough to read them."""
    side = max(6.0, 0.32 * len(labels) + 3)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True)), cmap="Greens", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
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


def reliability_diagram(before: Sequence[tuple[float, float, float]], after: Sequence[tuple[float, float, float]]) -> Figure:
    """Accuracy over confidence, before and after temperature scaling; dot size is the share of rows."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfectly calibrated")
    for points, colour, name in ((before, RUST, "as trained"), (after, GREEN, "calibrated")):
        confidence, accuracy, share = zip(*points, strict=True)
        axes.scatter(confidence, accuracy, s=[30 + 600 * s for s in share], color=colour, alpha=0.6, label=name)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, markerscale=0.5)
    return figure


def class_f1(names: Sequence[str], scores: Sequence[Any]) -> Figure:
    """F1 of each class with its interval, worst at the top; `scores` are `metrics.ClassScores`."""
    order = sorted(range(len(names)), key=lambda i: -scores[i].f1.value)
    figure = Figure(figsize=(8, max(4.0, 0.25 * len(names) + 1)), layout="constrained")
    axes = figure.subplots()
    for line, i in enumerate(order):
        f1 = scores[i].f1
        axes.plot([f1.low, f1.high], [line, line], color=GREY, linewidth=2)
        axes.plot(f1.value, line, "o", color=GREEN)
    axes.set_yticks(range(len(order)), [f"{names[i]} ({scores[i].rows})" for i in order], fontsize=8)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("F1 on the test rows, with bootstrap interval (rows in brackets)")
    axes.grid(axis="x", alpha=0.25)
    return figure


def sessions(names: Sequence[str], texts_per_s: Sequence[float], chosen: str, refused: Sequence[str]) -> Figure:
    """Speed of each session that ran; the one that serves in green, those that the gate refused in rust."""
    figure = Figure(figsize=(7, 0.5 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    colours = [GREEN if name == chosen else RUST if name in refused else GREY for name in names]
    bars = axes.barh(range(len(names)), texts_per_s, color=colours)
    axes.bar_label(bars, labels=["refused" if name in refused else "" for name in names], padding=4, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("texts per second, on the threads of one instance")
    axes.grid(axis="x", alpha=0.25)
    return figure
