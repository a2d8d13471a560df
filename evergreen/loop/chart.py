"""Chart of a loop: the share of correct answers over time above, the events below."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evergreen.loop.customers import CustomerMessage
from evergreen.loop.events import ALERTED, CHOSEN, DECIDED, FIRST, LABELLED, LAUNCH, NEW_CHAMPION, STAGE, Event
from evergreen.loop.scorecard import ROLLING, Quality, curve
from pipeline.atomic_write import atomic_write
from pipeline.charts import GREEN, GREY, RUST

SHOWN = (
    LAUNCH,
    ALERTED,
    CHOSEN,
    LABELLED,
    DECIDED,
    "collect",
    STAGE,
    "gate",
    "publish",
    "promote",
    NEW_CHAMPION,
)  # downwards
NARROW, LATE = 0.04, 0.6  # of the time axis: a bar too narrow for its name; from here on a time goes to the left of its dot


def draw(messages: Sequence[CustomerMessage], events: Sequence[Event], measured: Quality, path: Path) -> None:
    """Write the chart as PNG."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_quality(above, messages, measured)
    _draw_events(below, events)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        for event in events:
            if event.name in (LAUNCH, NEW_CHAMPION):
                axes.axvline(event.at_s, color=RUST, linewidth=1)
    below.set_xlabel("seconds since the start of the loop; the messages are those of four weeks")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _draw_quality(axes: Axes, messages: Sequence[CustomerMessage], measured: Quality) -> None:
    points = curve(messages)
    swapped_s = next((message.at_s for message in messages if message.version > FIRST), None)
    for is_new, colour, name in ((False, GREY, "answered by version 1"), (True, GREEN, "answered by the new champion")):
        line = [(at_s, share) for at_s, share in points if (swapped_s is not None and at_s >= swapped_s) == is_new]
        if line:
            axes.plot(*zip(*line, strict=True), color=colour, linewidth=2, label=name)
    if swapped_s is not None and measured.messages_after:
        last_s = messages[-1].at_s
        axes.hlines(measured.without, swapped_s, last_s, color=RUST, linestyle="--", label="version 1 on the same messages")
        axes.hlines(measured.after, swapped_s, last_s, color=GREEN, linestyle=":", label="the new champion on all of them")
    axes.set_ylabel(f"correct answers among the last {ROLLING}")
    axes.set_ylim(0, 1)
    if axes.lines:
        axes.legend(frameon=False, loc="lower left")


def _draw_events(axes: Axes, events: Sequence[Event]) -> None:
    """Draw a row for each name: pipeline stages as bars of their length, other events as dots."""
    end_s = max((event.at_s for event in events), default=1.0)
    shown = [event for event in events if event.name in SHOWN]
    for event in shown:
        row = SHOWN.index(event.name)
        if event.name == STAGE:
            until_s = next((later.at_s for later in shown if later.at_s > event.at_s), end_s)
            axes.barh(row, until_s - event.at_s, left=event.at_s, height=0.7, color=GREEN, alpha=0.35, edgecolor="white")
            if until_s - event.at_s > NARROW * end_s:
                stage = event.detail.removeprefix("stage ")
                axes.text((event.at_s + until_s) / 2, row, stage, ha="center", va="center", fontsize=7)
            continue
        is_late = event.at_s > LATE * end_s
        axes.plot(event.at_s, row, "o", color=GREEN, markersize=5)
        axes.annotate(
            f"{event.at_s:.0f} s",
            (event.at_s, row),
            xytext=(-7 if is_late else 7, 0),
            textcoords="offset points",
            ha="right" if is_late else "left",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(SHOWN)), SHOWN, fontsize=8)
    axes.invert_yaxis()
