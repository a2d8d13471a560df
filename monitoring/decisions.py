"""What was decided on the alerts of a version, read from the state database, and the sentences that people read about it.

The inbox shows it, and the controller exports it for the texts that Alertmanager sends. Decides nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from monitoring.clock import Moment
from monitoring.retrain_activity import CANCEL, RELEASE_STEPS, RETRAIN_NOW, find_activity
from pipeline.params import Alerts
from state.tables import decisions, retrains

STATUS = ".venv/bin/evergreen status"
LABELS = "docs/retraining.md#labels"
MAX_ROWS = 200
MAX_FAILURE = 500  # characters
Row = sa.Row[*tuple[Any, ...]]


class Decided(NamedTuple):
    """What was decided, and the one next step. `detail` changes while a retrain runs; the other texts do not."""

    state: str  # of a retrain (running, interrupted, done, refused, …: those of the journal), else waiting, none or undecided
    text: str
    detail: str
    next_step: str
    command: str  # or a link; empty where there is nothing to do


class Saying(NamedTuple):
    """Why there is no retrain, as the end of a sentence, and the next step with its command or link."""

    why: str
    next_step: str
    command: str


ANSWER_LABELS = "Give labels to some of the newest texts: they show whether answers got worse, and the next model learns them"
OVERRULE = "It is considered again by itself. To retrain all the same"
NOTHING_TO_DO = Saying("", "Nothing to do", "")
CAUSES = {
    "asked": "because a person asked for it",
    "release": "because a person asked for the release of a version",
    "harm": "because accuracy has fallen",
    "labels": "because enough new labels have arrived",
    "disagreement": "because two models surely disagree more than on the rows that measured them",
    "running": "which began before this alert",
}
OBSTACLES = {
    "settling": Saying("an alert has to last for a while (retrain.settle_s)", "Wait a minute for the decision", STATUS),
    "no_harm": Saying("nothing shows that answers got worse, and there are few new labels", ANSWER_LABELS, LABELS),
    "on_request": Saying("retraining is on request here (make watch RETRAIN=1 lets alerts start it)", "Retrain now", RETRAIN_NOW),
    "other_inputs": Saying(
        "it would not start from what serves: data, files or commit differ from the champion's",
        "See how they differ",
        RETRAIN_NOW,
    ),
    "nothing_new": Saying("it would repeat the last one: data, labels and settings are the same", ANSWER_LABELS, LABELS),
    "labelling": Saying(
        "people are labelling; it waits for more labels (retrain.enough_labels, retrain.label_wait_s)",
        "Label more texts, or wait",
        LABELS,
    ),
    "cooldown": Saying("the last one ended a short time ago (retrain.cooldown_s)", OVERRULE, RETRAIN_NOW),
    "budget": Saying("the day's compute for retraining is spent (retrain.budget_s)", OVERRULE, RETRAIN_NOW),
    "over": NOTHING_TO_DO._replace(why="the alert ended first"),
    "another_version": NOTHING_TO_DO._replace(why="the alert is about a version that no longer answers"),
    "no_champion": Saying("no version is published", "Publish one", "make repro"),
    "busy": Saying("a retrain or a release runs already", "Wait for its end, or end it", CANCEL),
    "is_champion": NOTHING_TO_DO._replace(why="this version is champion already"),
    "not_a_cause": NOTHING_TO_DO._replace(why="alerts of this kind never start one"),
}
UNSEEN = Decided(
    "none",
    "Nothing: no retrain controller has seen this alert. Retraining is off, or its controller is down.",
    "",
    "Look at the words and texts. If they are here to stay, label some of them and retrain",
    RETRAIN_NOW,
)


def describe_retraining(alerts: Alerts, *, is_on_request: bool) -> str:
    """Say whether alerts start retrains."""
    if alerts.controller_url == "none":
        return "Retraining is off: no controller decides on alerts (params.yaml, alerts.controller_url)."
    if is_on_request:
        return "Retraining is on request: no alert starts a retrain (make watch RETRAIN=1 lets them)."
    return "Retraining is automatic: the controller decides on each alert on drift or accuracy."


def describe_decision(verdict: str, reason: str) -> str:
    """Return a decision on an alert in words, such as `no retrain, the alert ended first`."""
    if not reason:
        return "not decided yet"
    if reason == "release" and verdict == "started":
        return "release begun, because a person asked for it"
    made = {"started": "retrain started", "joined": "joined the running retrain", "waiting": "no retrain yet"}
    return f"{made.get(verdict, 'no retrain')}, {describe_reason(reason)}"


def describe_reason(reason: str) -> str:
    """Return the reason of a decision as the end of a sentence; a reason of a later release as it is stored."""
    return OBSTACLES[reason].why if reason in OBSTACLES else CAUSES.get(reason, reason)


def read_decision(connection: sa.Connection, version: int, since: float, until: float, now: Moment) -> Decided | None:
    """Return what was decided on a version's alerts that began in this time (seconds of the epoch), None without any."""
    names = ["state", "step", "progress", "began_wall", "ended_wall", "version_in", "version_out", "failure", "owner", "attempt"]
    names += ["fence", *(f"lease_{part}" for part in Moment._fields)]
    query = (
        sa.select(*(decisions.c[name] for name in ("verdict", "reason", "at", "alertname", "retrain_id")))
        .add_columns(*(retrains.c[name] for name in names))
        .join_from(decisions, retrains, retrains.c.id == decisions.c.retrain_id, isouter=True)
        .where((decisions.c.version == version) | (retrains.c.version_in == version), decisions.c.starts_at.between(since, until))
        .order_by(decisions.c.id.desc())
        .limit(MAX_ROWS)
    )
    return summarise(connection.execute(query).all(), now)


def read_open_since(connection: sa.Connection, version: int) -> float | None:
    """Return the start of the version's oldest alert that has not ended, or None when all have."""
    is_open = (decisions.c.version == version) & ~decisions.c.is_over
    start: float | None = connection.execute(sa.select(sa.func.min(decisions.c.starts_at)).where(is_open)).scalar_one()
    return start


def summarise(rows: Sequence[Row], now: Moment) -> Decided | None:
    """Return the decision that stands for all: the newest retrain, else why one waits, else why there is none."""
    if not rows:
        return None
    waiting = max((row for row in rows if row.verdict == "waiting"), key=lambda row: row.at, default=None)
    retrained = max((row for row in rows if row.state is not None), key=_retrain_and_cause, default=None)
    if retrained is None:
        return _obstacle(waiting or max(rows, key=lambda row: row.at))
    said = _retrain(retrained, now)
    if waiting is None or said.state == "running":
        return said
    after = _obstacle(waiting)
    return said._replace(text=f"{said.text} {after.text}", next_step=after.next_step, command=after.command)


def _retrain_and_cause(row: Row) -> tuple[int, bool]:
    return row.retrain_id, row.verdict == "started"  # `joined` does not say why it started


def _obstacle(row: Row) -> Decided:
    """Describe an alert that waits, or that was refused a retrain."""
    if not row.reason:
        return Decided("undecided", "Nothing yet: the retrain controller decides within seconds.", "", "Wait for it", STATUS)
    saying = OBSTACLES.get(row.reason, Saying(row.reason, "See the decision and its facts", STATUS))
    if row.verdict == "waiting":
        return Decided("waiting", f"No retrain yet: {saying.why}.", "", saying.next_step, saying.command)
    return Decided("none", f"No retrain: {saying.why}.", "", saying.next_step, saying.command)


def _retrain(row: Row, now: Moment) -> Decided:
    """Describe a retrain that runs or has ended."""
    why = f".venv/bin/evergreen why {row.alertname}"
    began = f"retrain {row.retrain_id} began {_clock(row.began_wall)}"
    if row.state == "running":
        return _running(row, began, now)
    detail = f"{began}, ended {_clock(row.ended_wall)}" if row.ended_wall is not None else began
    if row.failure:
        detail += f": {row.failure[:MAX_FAILURE]}"
    if row.state == "done":
        answers = f"Version {row.version_out} replaced version {row.version_in}"
        return Decided(
            "done",
            f"{answers} after a retrain.",
            detail,
            "Nothing to do. Its origin",
            f".venv/bin/evergreen why {row.version_out}",
        )
    if row.state == "refused":
        text = f"A retrain made a model that was not good enough; version {row.version_in} stays."
        return Decided("refused", text, detail, "See the gate's reasons", why)
    if row.state == "rolled_back":
        text = f"Version {row.version_out} was rolled back: a guardrail of its release broke; version {row.version_in} answers."
        return Decided("rolled_back", text, detail, "See what broke", why)
    if row.state == "aborted":
        text = f"The release of version {row.version_out} was ended; version {row.version_in} answers."
        return Decided("aborted", text, detail, "See its steps", why)
    if row.state == "failed":
        return Decided(
            "failed", f"A retrain failed; version {row.version_in} stays.", detail, "See the failed step and its log", why
        )
    return Decided(row.state, f"A retrain ended: {row.state}; version {row.version_in} stays.", detail, "See its steps", why)


def _running(row: Row, began: str, now: Moment) -> Decided:
    """Describe a retrain that has not ended: never that it runs when nobody works on it."""
    cause, activity = describe_reason(row.reason), find_activity(row._mapping, now)
    if activity == "new":
        return Decided("running", f"A retrain begins, {cause}.", began, "Wait a minute for its first step", STATUS)
    if activity == "worked_on":
        detail = f"{began}; step {row.step}{': ' if row.progress else ''}{row.progress}"
        if row.step in RELEASE_STEPS:
            text = f"Version {row.version_out} is being released, step {row.step}; version {row.version_in} still answers."
            return Decided("running", text, detail, "Nothing to do, unless it waits for labels. Follow it", STATUS)
        follow = "Nothing to do: a better model replaces this one by itself. Follow it"
        return Decided("running", f"A retrain runs, {cause}.", detail, follow, STATUS)
    if activity == "paused":
        text = f"Step {row.step} of a retrain failed, and is tried again."
        detail = f"{began}; next attempt {_clock(row.lease_wall)}"
        return Decided("interrupted", text, detail, "Wait for the next attempt. Follow it", STATUS)
    text = f"A retrain was interrupted at step {row.step}, and nobody works on it."
    return Decided("interrupted", text, began, "Continue it", RETRAIN_NOW)


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
