"""What happened over time: alerts that fired, decisions on them, retrains, and versions that came and went."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from monitoring.alert_rules.monitoring import SWITCH
from monitoring.charts.lanes import EventMark, Lane, Span
from monitoring.charts.lines import TimeAxis
from monitoring.clock import Moment, read_clock
from monitoring.console.live.prometheus import Values
from monitoring.decisions import describe_decision
from monitoring.inbox.messages import read_snapshot
from monitoring.retrain.decide import ASKED
from monitoring.retrain.history.sources import Row, Sources
from monitoring.retrain_activity import Activity, find_activity
from state.tables import alerts, decisions, releases, retrain_steps, retrains

WHY = "/live/why"
ACTIVITIES: dict[Activity, str] = {
    "new": "begins",
    "worked_on": "runs",
    "paused": "waits for its next attempt",
    "abandoned": "was interrupted",
}
ALERT_LANES = 6
RETRAIN_KINDS = {"running": "retrain", "done": "good", "refused": "bad", "failed": "bad"}


def why_url(name: object) -> str:
    """Return the address of the details on an alert or a version."""
    return f"{WHY}?{urlencode({'name': str(name)})}"


def read_alerts(sources: Sources, axis: TimeAxis) -> list[Span]:
    """Return the alerts that fired, as the inbox and the journal received them.

    What was open when Prometheus last reported, and may have ended since, ends there.
    """
    episodes: dict[tuple[str, float], Span] = {}
    query = sa.select(alerts).where(alerts.c.received_at >= axis.start).order_by(alerts.c.id)
    for row in sources.rows(query, alerts):
        name, end = _alertname(row["body"]), row["received_at"] if row["status"] == "resolved" else None
        episodes[row["fingerprint"], row["starts_at"]] = Span(row["starts_at"], end, name, "alert", why_url(name))
    inbox = read_snapshot(sources.home / "inbox" / "messages.json")
    reported_at = inbox.switch.evaluated_at if inbox.switch else axis.end
    is_silent = axis.end - reported_at > sources.params.alerts.switch_overdue_s
    for message in inbox.messages:
        name, end = message.labels.get("alertname", ""), message.ends_at
        if end is None and is_silent:
            name, end = f"{name} (no news since)", max(message.repeated_at, reported_at)
        url = why_url(message.labels.get("alertname", ""))
        episodes[message.fingerprint, message.starts_at] = Span(message.starts_at, end, name, "alert", url)
    shown = [span for span in episodes.values() if span.url not in (why_url(SWITCH), why_url(ASKED))]
    seen = [span for span in shown if span.start <= axis.end and (span.end is None or span.end >= axis.start)]
    return sorted(seen, key=lambda span: span.start)


def alerts_of_prometheus(series: Iterable[Values], axis: TimeAxis) -> list[Span]:
    """Return the alerts that fired, to a step, from the series ALERTS."""
    spans = []
    for values in series:
        name, run = values.labels.get("alertname", ""), list[float]()
        for at, _ in values.points:
            if run and at - run[-1] > 1.5 * axis.step_s:
                spans.append(Span(run[0], run[-1], name, "alert", why_url(name)))
                run = []
            run.append(at)
        if run:
            is_over = axis.end - run[-1] > 1.5 * axis.step_s
            spans.append(Span(run[0], run[-1] if is_over else None, name, "alert", why_url(name)))
    return spans


def alert_lanes(spans: Sequence[Span]) -> list[Lane]:
    """Return a lane for each alert's name; names beyond `ALERT_LANES` share the last one."""
    by_name: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_name[span.name.partition(" ")[0]].append(span)
    names = sorted(by_name, key=lambda name: by_name[name][0].start)
    shown = len(names) if len(names) <= ALERT_LANES + 1 else ALERT_LANES
    lanes = [Lane(name, merge(by_name[name])) for name in names[:shown]]
    rest = [span for name in names[shown:] for span in merge(by_name[name])]
    return [*lanes, Lane(f"{len(names) - shown} other alerts", rest)] if rest else lanes


def merge(spans: Sequence[Span]) -> list[Span]:
    """Join spans of one alert that overlap: several signals of one version fire at the same time."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        last = merged[-1] if merged else None
        if last is not None and (last.end is None or span.start <= last.end):
            later = span if span.end is None or (last.end is not None and span.end > last.end) else last
            merged[-1] = last._replace(end=later.end, name=later.name)
        else:
            merged.append(span)
    return merged


def decision_lane(sources: Sources, axis: TimeAxis) -> Lane:
    """Return the decisions on alerts."""
    query = sa.select(decisions).where(decisions.c.at.between(axis.start, axis.end)).order_by(decisions.c.at)
    events = [
        EventMark(
            row["at"],
            f"{row['alertname']}: {describe_decision(row['verdict'], row['reason'])}",
            "good" if row["verdict"] == "started" else "neutral",
            why_url(row["fingerprint"]),
        )
        for row in sources.rows(query, decisions)
    ]
    return Lane("Decisions", events=events)


def retrain_lane(sources: Sources, axis: TimeAxis) -> Lane:
    """Return the retrains, and the verdicts of the gate on them."""
    is_seen = (retrains.c.began_wall <= axis.end) & (sa.func.coalesce(retrains.c.ended_wall, axis.end) >= axis.start)
    query = sa.select(retrains).where(is_seen).order_by(retrains.c.began_wall)
    found = {row["id"]: row for row in sources.rows(query, retrains)}
    now = read_clock()._replace(wall=axis.end)
    named = sa.select(decisions.c.id, decisions.c.fingerprint)
    names = {row["id"]: row["fingerprint"] for row in sources.rows(named, decisions)} if found else {}
    spans = [
        Span(
            row["began_wall"],
            row["ended_wall"],
            f"retrain {number} {describe_retrain(row, now)}",
            RETRAIN_KINDS.get(row["state"], "neutral"),
            why_url(names.get(row["decision_id"], "")),
        )
        for number, row in found.items()
    ]
    judged = (retrain_steps.c.step == "gate") & retrain_steps.c.ended_at.between(axis.start, axis.end)
    events = []
    for row in sources.rows(sa.select(retrain_steps).where(judged), retrain_steps):
        retrain = found.get(row["retrain_id"])
        if retrain is None or row["outcome"] != "done":
            continue
        is_refused = retrain["state"] == "refused"
        text = f"the gate {'refused' if is_refused else 'passed'} the model of retrain {row['retrain_id']}"
        events.append(
            EventMark(row["ended_at"], text, "bad" if is_refused else "good", why_url(names.get(retrain["decision_id"], "")))
        )
    return Lane("Retrains", spans, events)


def describe_retrain(row: Row, now: Moment) -> str:
    """Return what came of a retrain, or what happens to it."""
    if row["state"] == "done":
        return f"made version {row['version_out']}"
    if row["state"] == "running":
        return ACTIVITIES[find_activity(row, now)]
    return {"refused": "was refused by the gate", "failed": "failed"}.get(row["state"], f"was {row['state']}")


def version_lane(sources: Sources, axis: TimeAxis, champions: Sequence[tuple[float, int]]) -> Lane:
    """Return when versions were published and became champion; `champions` is (time, the champion then), ordered."""
    events = []
    for row in sources.rows(sa.select(releases).order_by(releases.c.version), releases):
        at = row["published_at"].replace(tzinfo=row["published_at"].tzinfo or UTC).timestamp()
        events.append(EventMark(at, f"version {row['version']} published", "neutral", why_url(row["version"])))
    for (_, before), (at, version) in pairwise(champions):
        if version > before:
            events.append(EventMark(at, f"version {version} promoted in place of version {before}", "good", why_url(version)))
        elif version < before:
            events.append(EventMark(at, f"rolled back from version {before} to version {version}", "bad", why_url(version)))
    return Lane("Versions", events=sorted((event for event in events if axis.start <= event.at <= axis.end), key=lambda e: e.at))


def _alertname(body: str) -> str:
    alert: Any = json.loads(body)
    return str(alert.get("labels", {}).get("alertname", ""))
