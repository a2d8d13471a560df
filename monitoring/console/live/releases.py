"""Gradual releases on the timeline: from their beginning to their outcome, with the stages in between."""

import sqlalchemy as sa

from monitoring.charts.lanes import EventMark, Lane, Span
from monitoring.charts.lines import TimeAxis
from monitoring.retrain.history.sources import Sources
from state.tables import release_runs, retrain_steps

OUTCOMES = {  # outcome → what happened, kind of the mark
    "promoted": ("became champion step by step", "good"),
    "refused": ("was refused in the shadow", "bad"),
    "rolled_back": ("was rolled back", "bad"),
    "aborted": ("was ended by a person, or overtaken", "neutral"),
}
STAGES = {"shadow": "answers copies", "canary": "answers its first callers"}  # step of the journal → what begins


def release_url(retrain_id: int) -> str:
    """Return the page of a release."""
    return f"/release/{retrain_id}"


def release_lane(sources: Sources, axis: TimeAxis) -> Lane:
    """Return the releases that were seen in this time, the beginnings of their stages, and their outcomes."""
    c = release_runs.c
    is_seen = (c.began_at <= axis.end) & (sa.func.coalesce(c.ended_at, axis.end) >= axis.start)
    columns = (c.retrain_id, c.version, c.began_at, c.ended_at, c.outcome, c.reason)
    found = {
        row["retrain_id"]: row for row in sources.rows(sa.select(*columns).where(is_seen).order_by(c.began_at), release_runs)
    }
    spans, events = [], []
    for id, row in found.items():
        what, kind = OUTCOMES.get(row["outcome"], ("is being released", "retrain"))
        name = f"version {row['version']} {what}"
        spans.append(Span(row["began_at"], row["ended_at"], name, kind, release_url(id)))
        if row["ended_at"] is not None:
            why = f": {row['reason']}" if row["reason"] else ""
            events.append(EventMark(row["ended_at"], f"{name}{why}", kind, release_url(id)))
    s = retrain_steps.c
    begun = s.step.in_(list(STAGES)) & (s.attempt == 1) & s.began_at.between(axis.start, axis.end)
    for step in sources.rows(sa.select(s.retrain_id, s.step, s.began_at).where(begun), retrain_steps) if found else ():
        if step["retrain_id"] in found:
            text = f"version {found[step['retrain_id']]['version']} {STAGES[step['step']]}"
            events.append(EventMark(step["began_at"], text, "neutral", release_url(step["retrain_id"])))
    return Lane("Releases", spans, sorted(events, key=lambda event: event.at))
