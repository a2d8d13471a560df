"""The loop in one picture: how right the answers were, and what happened meanwhile."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evergreen.loop.customers import Asked
from evergreen.loop.events import FIRST, STAGE, Event
from evergreen.loop.scorecard import ROLLING, Quality, curve
from pipeline.atomic_write import atomic_write
from pipeline.charts import GREEN, GREY, RUST

LANES = (
    "the shop sells something new",
    "people are told",
    "labels arrive",
    "a retrain is decided",
    "collect",
    STAGE,
    "gate",
    "publish",
    "swap",
    "customers hear the new champion",
)
NARROW, LATE = 0.04, 0.6  # of the time axis: a stage whose name does not fit its bar; what is told to the left of its dot


def draw(asked: Sequence[Asked], events: Sequence[Event], found: Quality, path: Path) -> None:
    """As PNG."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    points = curve(asked)
    arrived = next((one.at_s for one in asked if one.version > FIRST), None)
    for is_new, colour, name in ((False, GREY, "answered by version 1"), (True, GREEN, "answered by the new champion")):
        own = [(at_s, share) for at_s, share in points if (arrived is not None and at_s >= arrived) == is_new]
        if own:
            above.plot(*zip(*own, strict=True), color=colour, linewidth=2, label=name)
    if arrived is not None and found.messages_after:
        last = asked[-1].at_s
        above.hlines(found.without, arrived, last, color=RUST, linestyle="--", label="version 1 on the same messages")
        above.hlines(found.after, arrived, last, color=GREEN, linestyle=":", label="the new champion on all of them")
    above.set_ylabel(f"right answers among the last {ROLLING}")
    above.set_ylim(0, 1)
    if above.lines:
        above.legend(frameon=False, loc="lower left")
    _draw_events(below, events)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        for event in events:
            if event.name in (LANES[0], LANES[-1]):
                axes.axvline(event.at_s, color=RUST, linewidth=1)
    below.set_xlabel("seconds since the loop began; of four weeks of messages")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _draw_events(axes: Axes, events: Sequence[Event]) -> None:
    """A lane for each kind of event; the stages of the run are bars, as long as they took."""
    end_s = max((event.at_s for event in events), default=1.0)
    shown = [event for event in events if event.name in LANES]
    for event in shown:
        lane = LANES.index(event.name)
        if event.name == STAGE:
            until_s = next((other.at_s for other in shown if other.at_s > event.at_s), end_s)
            axes.barh(lane, until_s - event.at_s, left=event.at_s, height=0.7, color=GREEN, alpha=0.35, edgecolor="white")
            if until_s - event.at_s > NARROW * end_s:
                axes.text(
                    (event.at_s + until_s) / 2, lane, event.detail.removeprefix("stage "), ha="center", va="center", fontsize=7
                )
            continue
        is_late = event.at_s > LATE * end_s
        axes.plot(event.at_s, lane, "o", color=GREEN, markersize=5)
        axes.annotate(
            f"{event.at_s:.0f} s",
            (event.at_s, lane),
            xytext=(-7 if is_late else 7, 0),
            textcoords="offset points",
            ha="right" if is_late else "left",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(LANES)), LANES, fontsize=8)
    axes.invert_yaxis()
