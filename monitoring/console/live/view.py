"""Reads all sources of the page Live and puts its charts together. A source that is away is named, and the rest is shown."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from markupsafe import Markup

from monitoring.charts.lanes import Lane, Span, describe, lane_chart
from monitoring.charts.lines import LimitLine, Mark, PlotLine, TimeAxis
from monitoring.charts.ticks import local_time
from monitoring.console.live import readings
from monitoring.console.live.charts import WINDOWS, ChartView, Frame, Lines, prefer, show_lines, show_shares
from monitoring.console.live.counts import Binned, Coverage, PredictionCounts
from monitoring.console.live.events import (
    alert_lanes,
    alerts_of_prometheus,
    decision_lane,
    read_alerts,
    retrain_lane,
    version_lane,
)
from monitoring.console.live.prometheus import PrometheusError, read_ranges
from monitoring.console.live.ranges import TimeRange
from monitoring.console.live.releases import release_lane
from monitoring.console.live.stored import stored_estimate, stored_evidence, stored_labelled, stored_reference
from monitoring.retrain.history.sources import Sources, open_sources
from pipeline.params import Params
from serving.processes.addresses import base_url, reach_host
from serving.release.release_table import roles

NOT_COUNTED = "The prediction log is not counted yet. The numbers come by themselves."
COUNT_WITHIN_S = 1.0  # that a page waits for new counts of the log
WATCH, SERVE = "make watch", "make serve"


class Away(NamedTuple):
    """A source that cannot be read: what it is, why, and the command that helps."""

    what: str
    why: str
    command: str


class Happening(NamedTuple):
    """A row of the table of what happened."""

    at: float
    when: str
    lane: str
    text: str
    url: str


class LiveView(NamedTuple):
    """The page: its charts, and what happened."""

    axis: TimeAxis
    away: list[Away]
    counted_since: str  # while the prediction log is still counted, else empty
    charts: list[ChartView]
    lanes: Markup
    happenings: list[Happening]


class Stored(NamedTuple):
    """What the state database holds about the range."""

    champion: int | None
    reference: float | None
    evidence: dict[str, list[tuple[float, float]]]
    estimated: PlotLine
    labelled: PlotLine
    alerts: list[Span]
    lanes: list[Lane]


def read_live(params: Params, home: Path, counts: PredictionCounts, chosen: TimeRange, now: float) -> LiveView:
    """Read everything and draw it."""
    axis, away = chosen.axis(now), list[Away]()
    counts.update(chosen.seconds, COUNT_WITHIN_S)
    counted, coverage = counts.read(axis.start, chosen.step_s)
    if coverage.fault:
        away.append(Away("The prediction log is away", coverage.fault, ""))
    found = _read_prometheus(params, axis, away)
    champions = readings.champions(found, counted)
    stored = _read_stored(params, home, axis, champions, away)
    spans = stored.alerts or alerts_of_prometheus(found["firing"], axis)
    lanes = [*alert_lanes(spans), *(lane for lane in stored.lanes if lane.events or lane.spans)]
    charts = draw(params, Frame(axis, marks_of(lanes)), found, counted, coverage, stored)
    counted_since = "" if coverage.is_complete or coverage.fault else local_time(coverage.since)
    drawn = lane_chart(lanes, axis, title="What happened") if lanes else Markup()
    return LiveView(axis, away, counted_since, charts, drawn, list_lanes(lanes))


def _read_prometheus(params: Params, axis: TimeAxis, away: list[Away]) -> readings.Found:
    url = base_url(reach_host("prometheus", params.alerts.host), params.alerts.prometheus_port)
    try:
        return read_ranges(url, readings.live_queries(axis, params.alerts), axis)
    except PrometheusError as error:
        away.append(Away("Prometheus is away: the charts show what is stored", str(error), WATCH))
        return defaultdict(list)


def _read_stored(params: Params, home: Path, axis: TimeAxis, champions: Sequence[tuple[float, int]], away: list[Away]) -> Stored:
    try:
        with open_sources(home, params) as sources:
            return read_stored(sources, axis, champions)
    except sa.exc.SQLAlchemyError as error:
        why = str(error).splitlines()[0][:300]
        away.append(
            Away(
                "The state database is away: stored evidence, labels and decisions are missing", why, ".venv/bin/evergreen doctor"
            )
        )
        return Stored(None, None, {}, PlotLine("estimated", [], 0), PlotLine("by labels", [], 1), [], [])


def read_stored(sources: Sources, axis: TimeAxis, champions: Sequence[tuple[float, int]]) -> Stored:
    """Read the state database."""
    champion = roles(sources.connection).get("champion") if sources.connection is not None else None
    return Stored(
        champion,
        None if champion is None else stored_reference(sources, champion),
        stored_evidence(sources, axis),
        stored_estimate(sources, axis),
        stored_labelled(sources, axis, sources.params.monitor),
        read_alerts(sources, axis),
        [
            decision_lane(sources, axis),
            retrain_lane(sources, axis),
            release_lane(sources, axis),
            version_lane(sources, axis, champions),
        ],
    )


def draw(
    params: Params, frame: Frame, found: readings.Found, counted: Binned, coverage: Coverage, stored: Stored
) -> list[ChartView]:
    """Draw the charts, each from the source that knows more of the range."""
    axis, alerts = frame.axis, params.alerts
    traffic = prefer(readings.traffic_of_prometheus(found), readings.traffic_of_log(counted, coverage, axis), axis)
    latency = prefer(readings.latency_of_prometheus(found), readings.latency_of_log(counted, axis), axis)
    errors = readings.errors_of_prometheus(found)
    versions = prefer(readings.versions_of_prometheus(found, axis), readings.versions_of_log(counted, axis), axis)
    labels = readings.labels_of_log(counted, axis)
    windows = readings.evidence_lines(stored.evidence, WINDOWS)
    evidence = prefer(readings.evidence_of_prometheus(found), windows, axis)
    accuracy = prefer(readings.accuracy_of_prometheus(found), Lines([stored.estimated, stored.labelled], WINDOWS), axis)
    reference = (
        None
        if stored.reference is None
        else LimitLine(stored.reference, f"on the reference of version {stored.champion}", is_alarm=False)
    )
    slow, failed = LimitLine(alerts.latency_limit_ms / 1000, "alert limit"), LimitLine(1 - alerts.answered_share, "alert limit")
    unwatched = (
        f"No window of {params.monitor.window_rows} predictions was evaluated in this time. The monitor does that: {WATCH}."
    )
    unknown = f"Only Prometheus knows this, and it has no values for this time. Start it: {WATCH}."
    empty = "No predictions in this time." if coverage.is_complete else NOT_COUNTED
    return [
        show_lines("traffic", "Traffic", "per s", traffic, frame, empty, in_words="predictions per second"),
        show_lines("latency", "Latency", "s", latency, frame, empty, limit=slow, in_words="from request to answer"),
        show_lines("errors", "Errors", "share", errors, frame, unknown, limit=failed, in_words="share of requests"),
        *show_abstentions(found, frame),
        show_lines(
            "drift", "Drift evidence", "", evidence, frame, unwatched, limit=LimitLine(1.0, "alarm"),
            in_words="log e-value over its threshold; below 0 drawn as 0",
        ),
        show_lines(
            "accuracy", "Accuracy", "share", accuracy, frame, unwatched, limit=reference, from_zero=False,
            in_words="share of right answers",
        ),
        show_shares("labels", "Predicted labels", labels, frame, empty, "{} is the label of every prediction."),
        show_shares("versions", "Versions", versions, frame, empty, "Every answer in this time is by {}."),
    ]  # fmt: skip


def show_abstentions(found: readings.Found, frame: Frame) -> list[ChartView]:
    """Draw the share of texts that got no label; nothing while no version abstains."""
    abstained = readings.abstentions_of_prometheus(found)
    if not abstained.lines:
        return []
    limit, in_words = readings.expected_abstentions(found), "share of texts that got no label"
    return [show_lines("abstained", "Abstained", "share", abstained, frame, "", limit=limit, in_words=in_words)]


def marks_of(lanes: Sequence[Lane]) -> list[Mark]:
    """Return the moments that every chart marks: versions that came, stages and ends of releases, retrains that began."""
    events = [event for lane in lanes if lane.name in ("Versions", "Releases") for event in lane.events]
    begun = [Mark(span.start, f"{span.name}: began") for lane in lanes if lane.name == "Retrains" for span in lane.spans]
    return [*(Mark(event.at, event.name) for event in events), *begun]


def list_lanes(lanes: Sequence[Lane]) -> list[Happening]:
    """Return everything that the lanes show, newest first."""
    rows = [
        Happening(span.start, local_time(span.start), lane.name, describe(span), span.url)
        for lane in lanes
        for span in lane.spans
    ]
    rows += [
        Happening(event.at, local_time(event.at), lane.name, event.name, event.url) for lane in lanes for event in lane.events
    ]
    return sorted(rows, key=lambda row: -row.at)
