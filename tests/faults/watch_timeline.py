"""The time line of a drill of the watching: how drift stood in the inbox, how old the news was, what the monitor had judged."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import atomic_write
from tests.faults.sampled import sampled
from tests.faults.timeline import AMBER, SHADE, Mark
from tests.faults.watch_environment import JUDGED, Environment

EVERY_S = 0.25
LABEL_SHARE = 0.022  # of the axes' width that an upright name needs
FOLLOWED = ("EvergreenDrift", "EvergreenWindowDrift")
SIGNAL = "input_novelty"  # which the drilled drift moves most
COLOURS = {"firing": RUST, "unheard": AMBER, "unconfirmed": AMBER, "over": GREEN, "": "#eeeeee"}


class Sample(NamedTuple):
    """One look. Standings are those of the newest message; "" stands for none yet, and None for an inbox that does not answer."""

    at_s: float  # of the monotonic clock
    standings: dict[str, str] | None  # by alert on `SIGNAL`
    others: frozenset[str]  # alerts of any other name that fire
    drifting: int  # alerts on drift, on whatever signal, that have been heard of
    silent_s: float | None  # how long the inbox says that the alerting has been silent; 0: it says that it works
    news_s: float | None  # age of the last evaluation that the inbox knows of
    rows: int  # written to the prediction log
    judged: int | None  # windows; None: the monitor does not answer


class WatchStory(NamedTuple):
    """All that the picture shows."""

    title: str
    samples: Sequence[Sample]
    marks: Sequence[Mark]
    overdue_s: float

    def rows(self) -> list[dict[str, Any]]:
        """One row a look."""
        zero_s = self.samples[0].at_s
        return [{**one._asdict(), "at_s": round(one.at_s - zero_s, 2), "others": sorted(one.others)} for one in self.samples]

    def draw(self, path: Path) -> None:
        """The picture, as PNG."""
        figure = Figure(figsize=(12, 7), layout="constrained")
        stands, news, windows = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 2))
        figure.suptitle(self.title)
        zero_s = self.samples[0].at_s
        at_s = [one.at_s - zero_s for one in self.samples]
        self._draw_standings(stands, zero_s)
        news.plot(
            at_s, [one.news_s if one.news_s is not None else float("nan") for one in self.samples], color="black", linewidth=1.2
        )
        news.axhline(self.overdue_s, color=RUST, linestyle=":", label="the inbox says that the alerting is silent")
        news.set_ylabel("age of the last news, s")
        windows.plot(at_s, [one.rows / JUDGED["window_rows"] for one in self.samples], color=GREY, label="windows written")
        judged = [float("nan") if one.judged is None else one.judged for one in self.samples]
        windows.plot(at_s, judged, color=GREEN, label="windows judged; a gap: the monitor does not answer")
        windows.set_ylabel("windows")
        windows.set_xlabel("seconds")
        for axes in (stands, news, windows):
            for mark in self.marks:
                axes.axvspan(mark.since_s - zero_s, mark.until_s - zero_s, color=SHADE, linewidth=0, zorder=0)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        label(stands, [(mark.since_s - zero_s, mark.name) for mark in self.marks], self.samples[-1].at_s - zero_s)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            figure.savefig(part, format="png", dpi=110)

    def _draw_standings(self, axes: Any, zero_s: float) -> None:
        for place, alert in enumerate(FOLLOWED):
            for one, following in zip(self.samples, self.samples[1:], strict=False):
                colour = GREY if one.standings is None else COLOURS[one.standings[alert]]
                axes.barh(place, following.at_s - one.at_s, left=one.at_s - zero_s, color=colour, height=0.6)
        axes.set_yticks(range(len(FOLLOWED)), FOLLOWED)
        for name, colour in (("firing", RUST), ("end not confirmed", AMBER), ("over", GREEN), ("the inbox is away", GREY)):
            axes.barh(0, 0, color=colour, label=name)


def label(axes: Axes, named: Sequence[tuple[float, str]], until_s: float) -> None:
    """Names above the axes, upright, each led to its moment by a line; those of moments close together stand side by side."""
    named = sorted(named)
    for (at_s, name), beside_s in zip(named, apart([at_s for at_s, _name in named], until_s * LABEL_SHARE), strict=True):
        axes.annotate(
            name,
            (at_s, 1.0),
            xytext=(beside_s, 1.12),
            xycoords=("data", "axes fraction"),
            textcoords=("data", "axes fraction"),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            color=RUST,
            arrowprops={"arrowstyle": "-", "relpos": (0.5, 0.0), "color": RUST, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places, each moved up as far as it has to be so that none is nearer than `gap` to the one before."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    return found


def looking(environment: Environment) -> AbstractContextManager[list[Sample]]:
    """Looks at the inbox and the monitor, a list that grows until the block ends."""
    return sampled(lambda: sample(environment), EVERY_S)


def sample(environment: Environment) -> Sample:
    """One look."""
    state, at_s = environment.inbox(), monotonic()
    messages = state["messages"] if state else []
    switch = state and state["switch"]
    named = [(one["labels"]["alertname"], one["labels"].get("signal")) for one in messages]
    return Sample(
        at_s=at_s,
        standings={alert: newest(messages, alert) for alert in FOLLOWED} if state else None,
        others=frozenset(
            one["labels"]["alertname"]
            for one in messages
            if one["labels"]["alertname"] not in FOLLOWED and one["standing"] == "firing"
        ),
        drifting=sum(alert in FOLLOWED for alert, _signal in named),
        silent_s=state["overdue_s"] if state else None,
        news_s=time() - switch["evaluated_at"] if switch else None,
        rows=environment.stream.rows,
        judged=environment.judged(),
    )


def newest(messages: Sequence[dict[str, Any]], alert: str) -> str:
    """How the newest message of this alert on `SIGNAL` stands; "" where there is none."""
    own = [one for one in messages if (one["labels"]["alertname"], one["labels"].get("signal")) == (alert, SIGNAL)]
    return str(max(own, key=lambda one: one["starts_at"])["standing"]) if own else ""
