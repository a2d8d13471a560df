"""Draw the drift bench: false alarms beside the promise, power, delays, and accuracy without labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.charts import GREEN, GREY, RUST
from tests.bench.drift.errors import AFTER, Delays
from tests.bench.drift.quality import Guess
from tests.bench.drift.windows import WINDOWS, Power, Quiet

DASHES = dict(zip(WINDOWS, ("--", "-"), strict=True))


def draw(quiet: Sequence[Quiet], power: Sequence[Power], delays: Sequence[Delays], guesses: Sequence[Guess], path: Path) -> None:
    """Draw the four panels."""
    figure = Figure(figsize=(17, 12), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    draw_quiet(first, quiet)
    draw_power(second, power)
    draw_delays(third, delays)
    draw_guesses(fourth, guesses)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def draw_quiet(axes: Axes, quiet: Sequence[Quiet]) -> None:
    """Draw each setting's promised rate, the bound that chance allows, and the measured rate."""
    for line, setting in enumerate(quiet):
        bound = setting.bound(len(quiet))
        axes.barh(line, bound, color=GREY, alpha=0.25, height=0.7)
        axes.plot(setting.alpha, line, "|", color="black", markersize=16)
        axes.plot(setting.rate, line, "o", color=GREEN if setting.rate <= bound else RUST)
    axes.set_yticks(
        range(len(quiet)), [f"{setting.world}, windows of {setting.window}, {setting.alpha:g}" for setting in quiet], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("share of streams with a false alarm; | promised, grey: allowed by chance, jointly over the settings")
    axes.set_title(f"false alarms over whole streams without drift, {quiet[0].runs} streams each")


def draw_power(axes: Axes, power: Sequence[Power]) -> None:
    """Draw power over contamination; solid lines are windows of 1,000."""
    for foreign, colour in zip(dict.fromkeys(point.foreign for point in power), (GREEN, RUST), strict=False):
        for window in WINDOWS:
            points = [point for point in power if (point.foreign, point.window) == (foreign, window)]
            shares, jointly = [100 * point.share for point in points], [point.jointly for point in points]
            axes.plot(shares, jointly, DASHES[window], color=colour, marker="o", label=f"{foreign}, {window} texts")
            axes.plot(shares, [point.stream for point in points], DASHES[window], color=colour, alpha=0.3, linewidth=4)
    bbsd = [point for point in power if (point.foreign, point.window) == (power[0].foreign, WINDOWS[0])]
    shares = [100 * point.share for point in bbsd]
    softmax = [point.alone["prediction_softmax"] for point in bbsd]
    axes.plot(shares, softmax, ":", color=GREY, label=f"BBSD alone, {power[0].foreign}, {WINDOWS[0]} texts")
    axes.axhline(0.05, color=GREY, linewidth=1)
    axes.set_xscale("symlog", linthresh=2)
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.set_xlim(left=-0.1)
    axes.set_xlabel("foreign texts in the window, %; pale: the e-detectors alone")
    axes.set_ylabel("share of windows that alarm")
    axes.legend(frameon=False)
    axes.set_title("power at 5 % false alarms, banking77")


def draw_delays(axes: Axes, delays: Sequence[Delays]) -> None:
    """Draw the distribution of delays; missed changes stand at the end."""
    for line, detector in enumerate(delays):
        low, first, middle, third, high = np.percentile(detector.delays, [5, 25, 50, 75, 95])
        colour = GREEN if "ours" in detector.name else RUST if "oracle" in detector.name else GREY
        axes.plot([low, high], [line, line], color=colour, linewidth=1.5)
        axes.plot([first, third], [line, line], color=colour, linewidth=7, alpha=0.5, solid_capstyle="butt")
        axes.plot(middle, line, "o", color=colour)
        axes.annotate(
            f"{detector.false_alarms:.2f} false, {detector.missed:.2f} missed", (AFTER * 1.02, line), va="center", fontsize=8
        )
    axes.set_yticks(range(len(delays)), [detector.name for detector in delays])
    axes.invert_yaxis()
    axes.set_xlim(0, AFTER * 1.35)
    axes.set_xlabel(f"items from the change to the alarm: 5, 25, 50, 75, 95 %; {AFTER:,} is never")
    axes.set_title("errors .10 → .15")


def draw_guesses(axes: Axes, guesses: Sequence[Guess]) -> None:
    """Draw the mean absolute error by kind of shift and estimator."""
    styles = {"ours": (GREEN, "o"), "CBPE": (RUST, "s"), "ATC": (GREY, "^"), "DoC": (GREY, "+"), "unchanged": (GREY, "x")}
    for name, (colour, marker) in styles.items():
        axes.plot([guess.error[name] for guess in guesses], range(len(guesses)), marker, color=colour, label=name)
    axes.axvline(3, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(guesses)), [f"{guess.kind} (true {100 * guess.truth:.0f} %)" for guess in guesses], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    axes.set_xlabel("mean error of the estimated accuracy, points; dashed: the goal's limit")
    axes.set_title("accuracy without labels")
