"""The lineage of an alert, a version or a request: a chain of entries with facts for people. Only reads.

request → prediction → version → run, commit, data → parent → decision → alert, and from an alert to the version it led to. Where
a source is missing (an older schema, a deleted folder, a log that stores hashes), the chain is shorter and says so.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.alertmanager_webhook import CUT
from monitoring.clock import read_clock
from monitoring.release.runs import read_run
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.history.sources import (
    Row,
    Sources,
    describe_ids,
    find_alerts,
    find_decisions,
    find_logged,
    find_messages,
    find_role,
    find_version,
    format_time,
    read_lineage,
)
from monitoring.retrain_activity import describe_running
from pipeline.errors import InputError, ToolError
from pipeline.home import DVC_LOCK, git
from pipeline.output.shares import percent
from state.tables import decisions, feedback, judgements, release_runs, releases, retrain_steps, retrains

SHOWN = 12  # hex digits of a digest
Facts = list[tuple[str, str]]


class Entry(NamedTuple):
    """One entry of the chain; `facts` are (name, value) in reading order."""

    kind: str
    name: str
    facts: tuple[tuple[str, str], ...]


def trace(name: str, sources: Sources) -> list[Entry]:
    """Return the chain behind a version (number or role), an alert (name or fingerprint), or a request or prediction id.

    Raises `InputError` that names the kinds of ids and where to find one.
    """
    version = find_version(name, sources)
    if version is not None:
        return trace_version(version, sources)
    decided = find_decisions(name, sources)
    if decided or find_messages(name, sources):
        return trace_alert(name, decided, sources)
    predictions = find_logged(name, sources)
    if predictions:
        return trace_predictions(predictions, sources)
    raise InputError(name, "there is no alert, version, request or prediction with this name", describe_ids(sources))


def trace_predictions(predictions: Sequence[Row], sources: Sources) -> list[Entry]:
    """Return the predictions with their feedback, and the versions that made them."""
    entries = [_prediction_entry(row, sources) for row in predictions]
    for version in dict.fromkeys(row["version"] for row in predictions):
        entries += trace_version(version, sources)
    return entries


def trace_version(version: int, sources: Sources) -> list[Entry]:
    """Return a version, its origin, its parent, and the decision and alert that asked for it."""
    lineage, folder = read_lineage(version, sources.home)
    entries = [_version_entry(version, lineage, folder, sources)]
    if lineage:
        entries.append(_origin_entry(lineage))
    parent = lineage.get("parent_version")
    if parent is not None:
        role = find_role(int(parent), sources)
        entries.append(Entry("parent", f"version {parent}", (("role now", role), ("show", f"evergreen why {parent}"))))
    decision_id = lineage.get("decision")  # written at publish, before the journal knows the version
    made_it = (retrains.c.version_out == version) | (
        retrains.c.decision_id == (decision_id if isinstance(decision_id, int) else None)
    )
    for retrain in sources.rows(sa.select(retrains).where(made_it), retrains):
        entries += [_retrain_entry(retrain, sources), *_release_entries(retrain, sources)]
        decided = sources.rows(sa.select(decisions).where(decisions.c.id == retrain["decision_id"]), decisions)
        for decision in decided:
            entries += [_decision_entry(decision), _alert_entry(decision["alertname"], [decision], sources)]
    if entries[-1].kind in ("version", "made from", "parent") and retrains.name in sources.tables:
        entries.append(Entry("decision", "none", (("published", "by hand; no retrain asked for it"),)))
    return entries


def trace_alert(name: str, decided: Sequence[Row], sources: Sources) -> list[Entry]:
    """Return an alert, the decision on each of its episodes, and the retrains and versions they led to, newest first."""
    entries = [_alert_entry(name, decided, sources)]
    for decision in decided:
        entries.append(_decision_entry(decision))
        if decision["retrain_id"] is None:
            continue
        for retrain in sources.rows(sa.select(retrains).where(retrains.c.id == decision["retrain_id"]), retrains):
            entries += [_retrain_entry(retrain, sources), *_release_entries(retrain, sources)]
            if retrain["version_out"] is not None:
                lineage, folder = read_lineage(retrain["version_out"], sources.home)
                entries.append(_version_entry(retrain["version_out"], lineage, folder, sources))
    return entries


def _prediction_entry(row: Row, sources: Sources) -> Entry:
    cached = " from the cache" if row["cache_hit"] else ""
    abstained = ", abstained: the caller got no label, or the fallback" if row.get("abstained") else ""
    facts: Facts = [
        ("text", row["text"] or f"stored as a hash: {row['text_hash']}"),
        ("label", f"{row['label']} ({percent(row['confidence'])} confidence), then {row['runner_up'] or 'none'}{abstained}"),
        ("answered", f"{format_time(row['time'])}, in {row['latency_ms']:.1f} ms{cached}"),
        ("by", f"version {row['version']} as {row['role']}" + (f", unit {row['unit']}" if row["unit"] else "")),
        ("request", row["request_id"]),
    ]
    for given in sources.rows(sa.select(feedback).where(feedback.c.prediction_id == row["id"]), feedback):
        withdrawn = ", withdrawn" if given["withdrawn_at"] else ""
        origin = f"by {given['labeller']}, {given['received_at']:%Y-%m-%d %H:%M}{withdrawn}"
        facts.append(("feedback", f"{given['label']} ({given['kind']}), {origin}"))
    judged = sources.rows(sa.select(judgements).where(judgements.c.prediction_id == row["id"]), judgements)
    facts += [("correct", "yes" if judgement["correct"] else "no") for judgement in judged]
    return Entry("answer", row["id"], tuple(facts))


def _version_entry(version: int, lineage: Row, folder: Path | None, sources: Sources) -> Entry:
    rows = sources.rows(sa.select(releases).where(releases.c.version == version), releases)
    facts: Facts = [("role now", find_role(version, sources))]
    facts += [("published", f"{row['published_at']:%Y-%m-%d %H:%M:%S} UTC") for row in rows]
    facts.append(("content", str(lineage.get("content_digest") or next((row["content_digest"] for row in rows), ""))[:SHOWN]))
    facts.append(("folder", str(folder) if folder else "gone: its lineage.json cannot be read"))
    return Entry("version", str(version), tuple(facts))


def _origin_entry(lineage: Row) -> Entry:
    """Return the content of lineage.json, compared with the current clone."""
    commit, lock = str(lineage.get("git_commit", "")), str(lineage.get("dvc_lock_digest", ""))
    is_same = DVC_LOCK.is_file() and sha256(DVC_LOCK.read_bytes()).hexdigest() == lock
    dirty = ", with uncommitted changes" if lineage.get("git_dirty") else ""
    facts = (
        ("MLflow run", f"{lineage.get('mlflow_run_id') or 'none'} (make ui)"),
        ("git commit", f"{commit[:SHOWN]} {_subject(commit)}{dirty}"),
        ("dvc.lock", f"{lock[:SHOWN]}, {'the same as here' if is_same else 'not the one here'}"),
        ("data", f"{str(lineage.get('data_digest', ''))[:SHOWN]} (tag data.digest of the run)"),
        ("decision", str(lineage.get("decision") or "none")),
    )
    return Entry("made from", "lineage.json", facts)


def _subject(commit: str) -> str:
    """Return the first line of a commit's message, if this clone has the commit."""
    try:
        return f"“{git('show', '--no-patch', '--format=%s', f'{commit}^{{commit}}', '--')}”"
    except ToolError:
        return "(not in this clone)"


def _retrain_entry(retrain: Row, sources: Sources) -> Entry:
    steps = sa.select(retrain_steps).where(retrain_steps.c.retrain_id == retrain["id"]).order_by(retrain_steps.c.id)
    is_running = retrain["state"] == "running"
    facts: Facts = [("state", describe_running(retrain, read_clock()) if is_running else retrain["state"])]
    facts.append(("began", format_time(retrain["began_wall"])))
    if retrain["ended_wall"] is not None:
        facts.append(
            ("ended", f"{format_time(retrain['ended_wall'])}, after {retrain['ended_wall'] - retrain['began_wall']:.0f} s")
        )
    for step in sources.rows(steps, retrain_steps):
        took = "" if step["ended_at"] is None else f" in {step['ended_at'] - step['began_at']:.1f} s"
        facts.append(("step", f"{step['step']}, attempt {step['attempt']}: {step['outcome']}{took} {step['detail']}".rstrip()))
    facts += [("labels", f"{retrain['labels']} texts")] if retrain["labels"] is not None else []
    facts += _gate_facts(retrain["verdict"])
    facts += [("failed", retrain["failure"])] if retrain["failure"] else []
    result = f"version {retrain['version_out']}" if retrain["version_out"] is not None else "no version"
    facts.append(("result", f"{result}, from champion {retrain['version_in'] or 'none'} at {str(retrain['git_commit'])[:SHOWN]}"))
    return Entry("retrain", str(retrain["id"]), tuple(facts))


def _release_entries(retrain: Row, sources: Sources) -> list[Entry]:
    """Return the gradual release at the end of a retrain, with its evidence; nothing without one."""
    if sources.connection is None or release_runs.name not in sources.tables:
        return []
    run = read_run(sources.connection, retrain["id"])
    if run is None:
        return []
    from monitoring.release.facts import release_facts  # imports scipy, which only a release needs

    return [Entry("release", f"version {run.version}", tuple(release_facts(run, sources.params.release)))]


def _gate_facts(stored: str | None) -> Facts:
    if not stored:
        return []
    verdict = Verdict.from_json(stored)
    return [("gate", "passed" if verdict.passed else "refused"), *(("", reason) for reason in verdict.reasons)]


def _decision_entry(decision: Row) -> Entry:
    based_on = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in json.loads(decision["facts"]).items() if value is not None
    )
    facts: Facts = [("verdict", f"{decision['verdict']}: {decision['reason'] or 'not decided yet'}")]
    facts.append(("at", format_time(decision["at"])))
    facts += [("based on", based_on)] if based_on else []
    facts += [("retrain", str(decision["retrain_id"]))] if decision["retrain_id"] is not None else []
    return Entry("decision", str(decision["id"]), tuple(facts))


def _alert_entry(name: str, decided: Sequence[Row], sources: Sources) -> Entry:
    """Return the alert as the controller received it, else as the inbox did."""
    received = find_alerts(list(decided), sources)
    if received:
        body = json.loads(received[-1]["body"])
        facts: Facts = [
            ("summary", str(body.get("annotations", {}).get("summary", ""))),
            ("labels", ", ".join(f"{key}={value}" for key, value in body.get("labels", {}).items())),
            *(("shortened", why) for name, why in body.get("annotations", {}).items() if name == CUT),
            *((row["status"], f"{format_time(row['received_at'])}, began {format_time(row['starts_at'])}") for row in received),
        ]
        return Entry("alert", f"{body.get('labels', {}).get('alertname', name)} {received[-1]['fingerprint']}", tuple(facts))
    facts = []
    for message in find_messages(name, sources):
        facts.append(("summary", message["annotations"].get("summary", "")))
        facts.append(("received", f"by the inbox, {format_time(message['heard_at'])}"))
    facts += [] if decided else [("decision", "none: the retrain controller has not received it")]
    return Entry("alert", name, tuple(facts))
