"""Sample and draw the drill of the monitoring: standing alerts in the inbox, age of its news, windows judged by the monitor."""

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
from tests.faults.watching.watch_environment import MONITOR_SETTINGS, Environment

EVERY_S = 0.25
LABEL_SHARE = 0.022  # share of the axes' width that an upright name needs
DRIFT_ALERTS = ("EvergreenDrift", "EvergreenWindowDrift")
SIGNAL = "input_novelty"  # the simulated drift moves it most
COLOURS = {"firing": RUST, "unheard": AMBER, "unconfirmed": AMBER, "over": GREEN, "": "#eeeeee"}


class Sample(NamedTuple):
    """Record the state of inbox and monitor.

    A standing is that of an alert's newest message: "" without one. Standings are None while the inbox does not answer.
    """

    at_s: float  # of the monotonic clock
    standings: dict[str, str] | None  # by alert on `SIGNAL`
    others: frozenset[str]  # firing alerts with other names
    drifting: int  # messages about drift, on any signal
    silent_s: float | None  # silence of the alerting as the inbox reports it; 0: it works
    news_s: float | None  # age of the last evaluation that reached the inbox
    rows: int  # written to the prediction log
    judged: int | None  # windows; None while the monitor does not answer


class WatchTimeline(NamedTuple):
    """Hold everything that the picture shows."""

    title: str
    samples: Sequence[Sample]
    marks: Sequence[Mark]
    overdue_s: float

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each sample."""
        zero_s = self.samples[0].at_s
        return [
            {**sample._asdict(), "at_s": round(sample.at_s - zero_s, 2), "others": sorted(sample.others)}
            for sample in self.samples
        ]

    def draw(self, path: Path) -> None:
        """Draw the time line as PNG."""
        figure = Figure(figsize=(12, 7), layout="constrained")
        standings, news, windows = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 2))
        figure.suptitle(self.title)
        zero_s = self.samples[0].at_s
        at_s = [sample.at_s - zero_s for sample in self.samples]
        self._draw_standings(standings, zero_s)
        news_s = [float("nan") if sample.news_s is None else sample.news_s for sample in self.samples]
        news.plot(at_s, news_s, color="black", linewidth=1.2)
        news.axhline(self.overdue_s, color=RUST, linestyle=":", label="the inbox says that the alerting is silent")
        news.set_ylabel("age of the last news, s")
        written = [sample.rows / MONITOR_SETTINGS["window_rows"] for sample in self.samples]
        windows.plot(at_s, written, color=GREY, label="windows written")
        judged = [float("nan") if sample.judged is None else sample.judged for sample in self.samples]
        windows.plot(at_s, judged, color=GREEN, label="windows judged; a gap: the monitor does not answer")
        windows.set_ylabel("windows")
        windows.set_xlabel("seconds")
        for axes in (standings, news, windows):
            for mark in self.marks:
                axes.axvspan(mark.since_s - zero_s, mark.until_s - zero_s, color=SHADE, linewidth=0, zorder=0)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        draw_names(standings, [(mark.since_s - zero_s, mark.name) for mark in self.marks], self.samples[-1].at_s - zero_s)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            figure.savefig(part, format="png", dpi=110)

    def _draw_standings(self, axes: Any, zero_s: float) -> None:
        for line, alert in enumerate(DRIFT_ALERTS):
            for sample, next_sample in zip(self.samples, self.samples[1:], strict=False):
                colour = GREY if sample.standings is None else COLOURS[sample.standings[alert]]
                axes.barh(line, next_sample.at_s - sample.at_s, left=sample.at_s - zero_s, color=colour, height=0.6)
        axes.set_yticks(range(len(DRIFT_ALERTS)), DRIFT_ALERTS)
        for name, colour in (("firing", RUST), ("end not confirmed", AMBER), ("over", GREEN), ("the inbox is away", GREY)):
            axes.barh(0, 0, color=colour, label=name)


def draw_names(axes: Axes, named: Sequence[tuple[float, str]], until_s: float) -> None:
    """Draw upright names above the axes, each with a line to its moment; names of close moments stand side by side."""
    named = sorted(named)
    for (at_s, name), beside_s in zip(named, spread([at_s for at_s, _name in named], until_s * LABEL_SHARE), strict=True):
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


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Return ascending places, each moved up as far as needed to keep `gap` to the one before."""
    result: list[float] = []
    for place in places:
        result.append(max(place, result[-1] + gap) if result else place)
    return result


def alerting_sampled(environment: Environment) -> AbstractContextManager[list[Sample]]:
    """Sample the inbox and the monitor; yield the list of samples, which grows until the block ends."""
    return sampled(lambda: sample(environment), EVERY_S)


def sample(environment: Environment) -> Sample:
    """Sample the inbox and the monitor now."""
    inbox, at_s = environment.inbox(), monotonic()
    messages = inbox["messages"] if inbox else []
    switch = inbox and inbox["switch"]
    names = [message["labels"]["alertname"] for message in messages]
    return Sample(
        at_s=at_s,
        standings={alert: newest_standing(messages, alert) for alert in DRIFT_ALERTS} if inbox else None,
        others=frozenset(
            message["labels"]["alertname"]
            for message in messages
            if message["labels"]["alertname"] not in DRIFT_ALERTS and message["standing"] == "firing"
        ),
        drifting=sum(name in DRIFT_ALERTS for name in names),
        silent_s=inbox["overdue_s"] if inbox else None,
        news_s=time() - switch["evaluated_at"] if switch else None,
        rows=environment.stream.rows,
        judged=environment.judged_windows(),
    )


def newest_standing(messages: Sequence[dict[str, Any]], alert: str) -> str:
    """Return the standing of the newest message of this alert on `SIGNAL`; "" when there is none."""
    matches = [
        message for message in messages if message["labels"]["alertname"] == alert and message["labels"].get("signal") == SIGNAL
    ]
    return str(max(matches, key=lambda message: message["starts_at"])["standing"]) if matches else ""
