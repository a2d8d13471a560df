"""Draw the flywheel bench: accuracy and recall of rare intents over labels for each order, and recall while intents arrive."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.charts import GREEN, GREY, RUST
from tests.bench.flywheel.orders import ORDERS, OURS
from tests.bench.flywheel.play import BATCH
from tests.bench.flywheel.rows import Played, curve
from tests.bench.flywheel.worlds import Annotator

STYLES = dict(zip(ORDERS, ((GREY, "--"), (RUST, "-"), (GREY, ":"), (GREY, "-."), (GREEN, "-")), strict=True))


def draw(played: Played, path: Path) -> None:
    """Draw the four panels."""
    figure = Figure(figsize=(15, 10), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    right = Annotator(0.0, confuses=False)
    draw_curves(first, played, "rare_recall", right, 0, "recall of 15 rare intents (%)")
    draw_curves(second, played, "accuracy", right, 0, "accuracy (%)")
    draw_curves(third, played, "rare_recall", Annotator(0.15, confuses=False), 0, "recall, 15 % of the labels wrong (%)")
    draw_curves(fourth, played, "rare_recall", right, 3, "recall of 15 intents, three of which arrive in each turn (%)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def draw_curves(axes: Axes, played: Played, field: str, annotator: Annotator, arriving: int, title: str) -> None:
    """Draw the mean over seeds of each order, and the range of the shipped order."""
    for order, (colour, dash) in STYLES.items():
        chosen = [
            plan
            for plan in played
            if (plan.order, plan.annotator, plan.arriving) == (order, annotator, arriving) and (not arriving or plan.examples)
        ]
        if not chosen:
            continue
        values = 100 * curve(played, chosen, field)
        labels = BATCH * np.arange(values.shape[1])
        axes.plot(labels, values.mean(axis=0), dash, color=colour, marker="o", label=order)
        if order == OURS:
            axes.fill_between(labels, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15)
    axes.set_xlabel("labels")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend()
