"""What the stores know of an alert, a version or a request: a chain of links, each link facts for people. Only reads.

request → answer → version → run, commit, data → parent → decision → alert, and from an alert on to the version it led to. What is
not there (an older schema, a version's folder, a log that keeps hashes) shortens the chain, and is said.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.history.stores import (
    Row,
    Stores,
    decisions_of,
    heard_of,
    kinds,
    lineage_of,
    logged,
    messages_of,
    moment,
    role_of,
    version_of,
)
from pipeline.errors import InputError, ToolError
from pipeline.home import git
from state.tables import decisions, feedback, judgements, releases, retrain_steps, retrains

SHOWN = 12  # hex digits of a digest
Facts = list[tuple[str, str]]


class Link(NamedTuple):
    """One thing in the chain; `facts` are (name, what) in the order to be read."""

    kind: str
    name: str
    facts: tuple[tuple[str, str], ...]


def why(asked: str, at: Stores) -> list[Link]:
    """The chain behind a version (a number or a role), an alert (name or fingerprint), or a request or prediction id.

    Raises `InputError` that says what kinds of ids there are, and where to find one.
    """
    version = version_of(asked, at)
    if version is not None:
        return of_version(version, at)
    told = decisions_of(asked, at)
    if told or messages_of(asked, at):
        return of_alert(asked, told, at)
    answers = logged(asked, at)
    if answers:
        return of_answers(answers, at)
    raise InputError(asked, "nothing in the stores has this name", kinds(at))


def of_answers(answers: Sequence[Row], at: Stores) -> list[Link]:
    """What was answered, what people said of it, and the versions that answered."""
    links = []
    for row in answers:
        said = at.rows(sa.select(feedback).where(feedback.c.prediction_id == row["id"]), feedback)
        judged = at.rows(sa.select(judgements).where(judgements.c.prediction_id == row["id"]), judgements)
        facts = [
            ("answered", f"{moment(row['time'])}, in {row['latency_ms']:.1f} ms{' from the cache' if row['cache_hit'] else ''}"),
            ("text", row["text"] or f"kept as a hash: {row['text_hash']}"),
            ("said", f"{row['label']} ({row['confidence']:.0%} sure), after it {row['runner_up'] or 'nothing'}"),
            ("by", f"version {row['version']} as {row['role']}" + (f", unit {row['unit']}" if row["unit"] else "")),
            ("request", row["request_id"]),
            *(
                ("feedback", f"{own['label']} ({own['kind']}), by {own['source']}, {own['received_at']:%Y-%m-%d %H:%M}")
                for own in said
            ),
            *(("judged", "right" if own["correct"] else "wrong") for own in judged),
        ]
        links.append(Link("answer", row["id"], tuple(facts)))
    for version in dict.fromkeys(row["version"] for row in answers):
        links += of_version(version, at)
    return links


def of_version(version: int, at: Stores) -> list[Link]:
    """A version, what it was made from, its parent, and the decision and alert that asked for it."""
    lineage, folder = lineage_of(version, at.home)
    links = [_version_link(version, lineage, folder, at)]
    if lineage:
        links.append(_made_link(lineage))
    parent = lineage.get("parent_version")
    if parent is not None:
        role = role_of(int(parent), at)
        links.append(Link("parent", f"version {parent}", (("role now", role), ("ask", f"evergreen why {parent}"))))
    asked = lineage.get("decision")  # written at publish, before the journal hears of the version
    made_it = (retrains.c.version_out == version) | (retrains.c.decision_id == (asked if isinstance(asked, int) else None))
    for retrain in at.rows(sa.select(retrains).where(made_it), retrains):
        links.append(_retrain_link(retrain, at))
        decided = at.rows(sa.select(decisions).where(decisions.c.id == retrain["decision_id"]), decisions)
        links += [link for one in decided for link in (_decision_link(one), _alert_link(one["alertname"], [one], at))]
    if links[-1].kind in ("version", "made from", "parent"):
        links.append(Link("decision", "none", (("published", "by hand: no retrain has asked for it"),)))
    return links


def of_alert(asked: str, told: Sequence[Row], at: Stores) -> list[Link]:
    """An alert, what was decided on each of its episodes, and what came of that; newest first."""
    links = [_alert_link(asked, told, at)]
    for one in told:
        links.append(_decision_link(one))
        if one["retrain_id"] is None:
            continue
        for retrain in at.rows(sa.select(retrains).where(retrains.c.id == one["retrain_id"]), retrains):
            links.append(_retrain_link(retrain, at))
            if retrain["version_out"] is not None:
                lineage, folder = lineage_of(retrain["version_out"], at.home)
                links.append(_version_link(retrain["version_out"], lineage, folder, at))
    return links


def _version_link(version: int, lineage: Row, folder: Path | None, at: Stores) -> Link:
    there = at.rows(sa.select(releases).where(releases.c.version == version), releases)
    facts: Facts = [("role now", role_of(version, at))]
    facts += [("published", f"{row['published_at']:%Y-%m-%d %H:%M:%S} UTC") for row in there]
    facts.append(("content", str(lineage.get("content_digest") or next((row["content_digest"] for row in there), ""))[:SHOWN]))
    facts.append(("folder", str(folder) if folder else "gone: its lineage.json cannot be read"))
    return Link("version", str(version), tuple(facts))


def _made_link(lineage: Row) -> Link:
    """What lineage.json says, held against the clone that one stands in."""
    commit, lock = str(lineage.get("git_commit", "")), str(lineage.get("dvc_lock_digest", ""))
    here = Path("dvc.lock")
    is_here = here.is_file() and sha256(here.read_bytes()).hexdigest() == lock
    dirty = ", with changes that were not committed" if lineage.get("git_dirty") else ""
    facts = (
        ("MLflow run", f"{lineage.get('mlflow_run_id') or 'none'} (make ui)"),
        ("git commit", f"{commit[:SHOWN]} {_subject(commit)}{dirty}"),
        ("dvc.lock", f"{lock[:SHOWN]}, {'the one here' if is_here else 'not the one here'}"),
        ("data", f"{str(lineage.get('data_digest', ''))[:SHOWN]} (tag data.digest of the run)"),
        ("decision", str(lineage.get("decision") or "none that it names")),
    )
    return Link("made from", "lineage.json", facts)


def _subject(commit: str) -> str:
    """The first line of a commit's message, where this clone has it."""
    try:
        return f"“{git('show', '--no-patch', '--format=%s', f'{commit}^{{commit}}', '--')}”"
    except ToolError:
        return "(not in this clone)"


def _retrain_link(retrain: Row, at: Stores) -> Link:
    mine = sa.select(retrain_steps).where(retrain_steps.c.retrain_id == retrain["id"]).order_by(retrain_steps.c.id)
    facts: Facts = [("state", retrain["state"] + (f", at {retrain['step']}" if retrain["state"] == "running" else ""))]
    facts.append(("began", moment(retrain["began_wall"])))
    if retrain["ended_wall"] is not None:
        facts.append(("ended", f"{moment(retrain['ended_wall'])}, after {retrain['ended_wall'] - retrain['began_wall']:.0f} s"))
    for step in at.rows(mine, retrain_steps):
        took = "" if step["ended_at"] is None else f" in {step['ended_at'] - step['began_at']:.1f} s"
        facts.append(("step", f"{step['step']}, attempt {step['attempt']}: {step['outcome']}{took} {step['detail']}".rstrip()))
    facts += [("labels", f"{retrain['labels']} texts")] if retrain["labels"] is not None else []
    facts += _gate_facts(retrain["verdict"])
    facts += [("failed", retrain["failure"])] if retrain["failure"] else []
    outcome = f"version {retrain['version_out']}" if retrain["version_out"] is not None else "no version"
    facts.append(("made", f"{outcome}, from champion {retrain['version_in'] or 'none'} at {str(retrain['git_commit'])[:SHOWN]}"))
    return Link("retrain", str(retrain["id"]), tuple(facts))


def _gate_facts(kept: str | None) -> Facts:
    if not kept:
        return []
    verdict = Verdict.from_json(kept)
    return [("gate", "passed" if verdict.passed else "refused"), *(("", reason) for reason in verdict.reasons)]


def _decision_link(decision: Row) -> Link:
    known = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in json.loads(decision["facts"]).items() if value is not None
    )
    facts: Facts = [("verdict", f"{decision['verdict']}: {decision['reason'] or 'nothing decided yet'}")]
    facts.append(("at", moment(decision["at"])))
    facts += [("knowing", known)] if known else []
    facts += [("retrain", str(decision["retrain_id"]))] if decision["retrain_id"] is not None else []
    return Link("decision", str(decision["id"]), tuple(facts))


def _alert_link(asked: str, told: Sequence[Row], at: Stores) -> Link:
    """The alert as the controller heard it, or as the inbox did."""
    heard = heard_of(list(told), at)
    if heard:
        body = json.loads(heard[-1]["body"])
        facts: Facts = [
            ("summary", str(body.get("annotations", {}).get("summary", ""))),
            ("labels", ", ".join(f"{key}={value}" for key, value in body.get("labels", {}).items())),
            *((row["status"], f"{moment(row['received_at'])}, began {moment(row['starts_at'])}") for row in heard),
        ]
        return Link("alert", f"{body.get('labels', {}).get('alertname', asked)} {heard[-1]['fingerprint']}", tuple(facts))
    facts = []
    for own in messages_of(asked, at):
        facts += [("summary", own["annotations"].get("summary", "")), ("heard", f"by the inbox, {moment(own['heard_at'])}")]
    facts += [] if told else [("decision", "none: the retrain controller has not heard of it")]
    return Link("alert", asked, tuple(facts))
