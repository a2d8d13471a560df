"""Pictures of the drift bench: realised against promised false alarms, power, delays, accuracy without labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.charts import GREEN, GREY, RUST
from tests.bench.drift_errors import AFTER, Delays
from tests.bench.drift_quality import Guess
from tests.bench.drift_windows import WINDOWS, Power, Quiet

DASHES = dict(zip(WINDOWS, ("--", "-"), strict=True))


def draw(quiet: Sequence[Quiet], power: Sequence[Power], delays: Sequence[Delays], guesses: Sequence[Guess], path: Path) -> None:
    """Four panels."""
    figure = Figure(figsize=(17, 12), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    draw_quiet(first, quiet)
    draw_power(second, power)
    draw_delays(third, delays)
    draw_guesses(fourth, guesses)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def draw_quiet(axes: Axes, quiet: Sequence[Quiet]) -> None:
    """A line a setting: what was promised, what it may be by chance, what it was."""
    for line, one in enumerate(quiet):
        bound = one.bound(len(quiet))
        axes.barh(line, bound, color=GREY, alpha=0.25, height=0.7)
        axes.plot(one.alpha, line, "|", color="black", markersize=16)
        axes.plot(one.rate, line, "o", color=GREEN if one.rate <= bound else RUST)
    axes.set_yticks(range(len(quiet)), [f"{one.world}, windows of {one.window}, {one.alpha:g}" for one in quiet], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("share of streams with a false alarm; | promised, grey: what chance allows, jointly over the settings")
    axes.set_title(f"false alarms over whole streams without drift, {quiet[0].runs} streams each")


def draw_power(axes: Axes, power: Sequence[Power]) -> None:
    """Power over contamination; solid lines are windows of 1,000."""
    for foreign, colour in zip(dict.fromkeys(one.foreign for one in power), (GREEN, RUST), strict=False):
        for window in WINDOWS:
            own = [one for one in power if (one.foreign, one.window) == (foreign, window)]
            shares = [100 * one.share for one in own]
            axes.plot(
                shares, [one.jointly for one in own], DASHES[window], color=colour, marker="o", label=f"{foreign}, {window} texts"
            )
            axes.plot(shares, [one.stream for one in own], DASHES[window], color=colour, alpha=0.3, linewidth=4)
    bbsd = [one for one in power if (one.foreign, one.window) == (power[0].foreign, WINDOWS[0])]
    softmax = [one.alone["prediction_softmax"] for one in bbsd]
    axes.plot(
        [100 * one.share for one in bbsd], softmax, ":", color=GREY, label=f"BBSD alone, {power[0].foreign}, {WINDOWS[0]} texts"
    )
    axes.axhline(0.05, color=GREY, linewidth=1)
    axes.set_xscale("symlog", linthresh=2)
    axes.set_xticks([100 * one.share for one in bbsd], [f"{100 * one.share:g}" for one in bbsd])
    axes.set_xlim(left=-0.1)
    axes.set_xlabel("foreign texts in the window, %; pale: the e-detectors alone")
    axes.set_ylabel("share of windows that alarm")
    axes.legend(frameon=False)
    axes.set_title("power at 5 % false alarms, banking77")


def draw_delays(axes: Axes, delays: Sequence[Delays]) -> None:
    """Distribution of delays; missed ones stand at the end."""
    for line, one in enumerate(delays):
        low, first, middle, third, high = np.percentile(one.delays, [5, 25, 50, 75, 95])
        colour = GREEN if "ours" in one.name else RUST if "oracle" in one.name else GREY
        axes.plot([low, high], [line, line], color=colour, linewidth=1.5)
        axes.plot([first, third], [line, line], color=colour, linewidth=7, alpha=0.5, solid_capstyle="butt")
        axes.plot(middle, line, "o", color=colour)
        axes.annotate(f"{one.false_alarms:.2f} false, {one.missed:.2f} missed", (AFTER * 1.02, line), va="center", fontsize=8)
    axes.set_yticks(range(len(delays)), [one.name for one in delays])
    axes.invert_yaxis()
    axes.set_xlim(0, AFTER * 1.35)
    axes.set_xlabel(f"items from the change to the alarm: 5, 25, 50, 75, 95 %; {AFTER:,} is never")
    axes.set_title("errors .10 → .15")


def draw_guesses(axes: Axes, guesses: Sequence[Guess]) -> None:
    """Mean absolute error by kind of shift and estimator."""
    styles = {"ours": (GREEN, "o"), "CBPE": (RUST, "s"), "ATC": (GREY, "^"), "DoC": (GREY, "+"), "unchanged": (GREY, "x")}
    for name, (colour, marker) in styles.items():
        axes.plot([one.error[name] for one in guesses], range(len(guesses)), marker, color=colour, label=name)
    axes.axvline(3, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(guesses)), [f"{one.kind} (true {100 * one.truth:.0f} %)" for one in guesses], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    axes.set_xlabel("mean error of the estimated accuracy, points; dashed: what the goal allows")
    axes.set_title("accuracy without labels")
