"""The schema of the state database: every table of every process, in one place.

They are together because one database has one history of migrations. Queries live with the package that owns a table:
`serving.release` has releases and routing, `serving.jobs` jobs, `monitoring.monitor` windows and signals, `monitoring.labels`
feedback, labellers and settlements, `monitoring.flywheel` disagreements and queue actions, `monitoring.retrain` alerts,
decisions, retrains and verdicts.

A time from which a wait is measured is stored as three columns: seconds since the epoch (`_wall`), seconds since boot (`_mono`)
and the id of that boot (`_boot`). So a clock that jumps changes no wait. Other `Float` times are seconds since the epoch.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

# --- releases, routing (serving.release), jobs (serving.jobs), labels, flywheel, monitor (monitoring) ---
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content_digest", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index(
        "one_version_a_role",
        "role",
        unique=True,
        sqlite_where=sa.text("role != 'retired'"),
        postgresql_where=sa.text("role != 'retired'"),
    ),
)
routing = sa.Table(
    "routing",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),  # one row
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every change of releases or routing
    sa.Column("challenger_weight", sa.Float, nullable=False),  # share of units that the challenger answers
    sa.Column("shadow_share", sa.Float, nullable=False),  # share of texts copied to the challenger, whose answers are discarded
    sa.Column("salt", sa.String(32), nullable=False),  # new with every challenger, so that each one gets different units first
)
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("caller", sa.String(64), nullable=False, server_default="local"),  # who may read it; the default is for older rows
    sa.Column("idempotency_key", sa.String(200), unique=True),  # digest of caller and key
    sa.Column("payload", sa.Text, nullable=False),  # JSON
    sa.Column("payload_digest", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # queued, running, done, failed
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False),  # queued: earliest start; running: end of the lease; else when it ended
    sa.Column("owner", sa.String(64)),
    sa.Column("fence", sa.Integer, nullable=False),  # grows with every claim; a write with an older number is refused
    sa.Column("result", sa.Text),  # JSON
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("callback_url", sa.Text),
    sa.Column("callback_status", sa.String(16), nullable=False),  # none, pending, sending, delivered, given_up
    sa.Column("callback_attempts", sa.Integer, nullable=False),
    sa.Column("callback_due_at", sa.Float, nullable=False),  # pending: earliest attempt; sending: end of the lease
    sa.Index("jobs_due", "status", "due_at"),
    sa.Index("callbacks_due", "callback_status", "callback_due_at"),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("prediction_id", sa.String(64), nullable=False),
    sa.Column("label", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),  # label: in the champion's schema; proposal: outside of it
    sa.Column("labeller", sa.String(64), nullable=False),  # name of the caller who gave it
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("note", sa.String(64)),  # the request's `source`: a remark, which decides nothing
    sa.Column("version", sa.Integer),  # of the prediction; null: a control text, or a row from before its id was checked
    sa.Column("withdrawn_at", sa.DateTime(timezone=True)),  # null: in force
    sa.Column("withdrawn_by", sa.String(64)),  # the labeller, who has taken it back; null: an operator
    sa.UniqueConstraint("prediction_id", "labeller", "label", name="one_opinion_once"),
)
labellers = sa.Table(
    "labellers",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("controls", sa.Integer, nullable=False),  # answers on texts whose label is trusted
    sa.Column("controls_right", sa.Integer, nullable=False),
    sa.Column("is_counted", sa.Boolean, nullable=False),  # false: too many of them were wrong
    sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
)
settlements = sa.Table(
    "settlements",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text_id", sa.String(64), nullable=False),  # content id of a protected row
    sa.Column("label", sa.String(200), nullable=False),  # that feedback gives it
    sa.Column("verdict", sa.String(16), nullable=False),  # keep (the row's label), change (to this one)
    sa.Column("settled_by", sa.String(64), nullable=False),
    sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
)
monitor = sa.Table(
    "monitor",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),  # one row
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every write; a write based on an older one is refused
    sa.Column("cursor", sa.Text, nullable=False),  # JSON: position in the prediction log
    sa.Column("watched", sa.LargeBinary),  # evidence and open window of the watched version at exactly this position
)
windows = sa.Table(
    "windows",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # counts from 1 in each version
    sa.Column("began_at", sa.Float, nullable=False),  # of its first and last row
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("foreign_share", sa.Float),
    sa.Column("accuracy_estimate", sa.Float),
    sa.Column("accuracy_lower", sa.Float),
    sa.Column("accuracy_upper", sa.Float),
    sa.Column("details", sa.Text, nullable=False),  # JSON: words and texts, where it alarmed
)
signals = sa.Table(
    "signals",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # of the window
    sa.Column("signal", sa.String(32), primary_key=True),
    sa.Column("value", sa.Float),
    sa.Column("threshold", sa.Float),  # null: no value can reach it
    sa.Column("p", sa.Float),
    sa.Column("effect", sa.Float),
    sa.Column("log_e", sa.Float, nullable=False),  # highest in the window
    sa.Column("log_threshold", sa.Float, nullable=False),
    sa.Column("alarm", sa.String(8), nullable=False),  # none, window, stream, both
)
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),  # of the prediction
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("label", sa.String(200), nullable=False),  # predicted
)
judgements = sa.Table(
    "judgements",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # in the order in which the monitor received them
    sa.Column("prediction_id", sa.String(64), nullable=False, unique=True),  # the first feedback counts
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("correct", sa.Boolean, nullable=False),
    sa.Column("feedback_id", sa.Integer),  # that decided it
    sa.Index("judgements_of_version", "version", "number"),
)
disagreements = sa.Table(
    "disagreements",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),  # the champion
    sa.Column("other", sa.String(64), nullable=False),  # the second model: control, or a version of the registry
    sa.Column("began_at", sa.Float, nullable=False),  # of the first and last answer that was compared
    sa.Column("ended_at", sa.Float, nullable=False),
    sa.Column("compared", sa.Integer, nullable=False),  # texts
    sa.Column("differing", sa.Integer, nullable=False),  # of them with different labels
    sa.Column("repeated", sa.Integer, nullable=False),  # texts that the champion answered again
    sa.Column("unstable", sa.Integer, nullable=False),  # of them with different labels
    sa.Column(
        "reference_rows", sa.Integer, nullable=False, server_default="0"
    ),  # of the champion that the other one answered too
    sa.Column("reference_differing", sa.Integer, nullable=False, server_default="0"),  # of them with different labels
    sa.Column("gaps", sa.Integer, nullable=False, server_default="0"),  # compared texts with one label and two confidences
    sa.Column("slower", sa.Integer, nullable=False, server_default="0"),  # compared texts for which the other one took longer
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),  # texts that the other one was sent and did not answer
    sa.Column("share", sa.Float, nullable=False),  # of texts that differ, beyond the champion's own repeats and the reference
    sa.Column("lower", sa.Float, nullable=False),
    sa.Column("upper", sa.Float, nullable=False),
    sa.Column("measured_at", sa.Float, nullable=False),
    sa.Index("disagreements_of_version", "version", "measured_at"),
)
intent_proposals = sa.Table(
    "intent_proposals",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.Integer, nullable=False),
    sa.Column("label", sa.String(200), nullable=False),  # a name for its intent, which the queue offers as a choice
    sa.Column("proposed_by", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.UniqueConstraint("cluster", "label", name="one_proposal_once"),
)
queue_actions = sa.Table(
    "queue_actions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text_id", sa.String(64), nullable=False),  # content id
    sa.Column("prediction_id", sa.String(64), nullable=False),
    sa.Column("labeller", sa.String(64), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),  # label, verify, propose, skip
    sa.Column("label", sa.String(200)),  # null: skip
    sa.Column("cluster", sa.Integer),  # in which the text was shown; null: none
    sa.Column("shown_at", sa.Float, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("undone_at", sa.Float),  # null: in force
    sa.UniqueConstraint("prediction_id", "labeller", "shown_at", name="one_action_a_showing"),  # a form that is sent twice
    sa.Index("queue_actions_of_text", "text_id"),
    sa.Index("queue_actions_of_labeller", "labeller", "at"),
)
label_returns = sa.Table(
    "label_returns",
    metadata,
    sa.Column("content_digest", sa.String(64), primary_key=True),  # of the package that learnt from the labels
    sa.Column("cluster", sa.Integer, primary_key=True, autoincrement=False),  # -1: all of them together
    sa.Column("labels", sa.Integer, nullable=False),
    sa.Column("texts", sa.Integer, nullable=False),  # of the cluster in traffic
    sa.Column("rows", sa.Integer, nullable=False),  # held out
    sa.Column("gained", sa.Integer, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False),
    sa.Column("removed", sa.Float, nullable=False),  # errors in traffic
    sa.Column("lower", sa.Float, nullable=False),  # bounds of `removed`
    sa.Column("upper", sa.Float, nullable=False),
)

# --- retraining (monitoring.retrain) ---
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String(200), nullable=False),
    sa.Column("starts_at", sa.Float, nullable=False),  # with the fingerprint it identifies an episode
    sa.Column("status", sa.String(16), nullable=False),  # firing, resolved
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON: the whole alert as received, ASCII
    sa.Column("decision_id", sa.Integer),  # null: not yet seen by the controller
    sa.UniqueConstraint("fingerprint", "starts_at", "status", name="one_alert_once"),
    sa.Index("alerts_unseen", "id", sqlite_where=sa.text("decision_id IS NULL"), postgresql_where=sa.text("decision_id IS NULL")),
)
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.String(200), nullable=False),
    sa.Column("starts_at", sa.Float, nullable=False),
    sa.Column("alertname", sa.String(200), nullable=False),
    sa.Column("version", sa.Integer),  # of the alert; null: the alert names none
    sa.Column("is_over", sa.Boolean, nullable=False),  # a resolved alert was received
    sa.Column("verdict", sa.String(16), nullable=False),  # waiting; final: started, joined, refused
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("at", sa.Float, nullable=False),  # of the last change
    sa.Column("received_wall", sa.Float, nullable=False),
    sa.Column("received_mono", sa.Float, nullable=False),
    sa.Column("received_boot", sa.String(64), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),  # JSON: the facts behind the decision
    sa.Column("retrain_id", sa.Integer),  # started or joined
    sa.UniqueConstraint("fingerprint", "starts_at", name="one_decision_an_episode"),
    sa.Index("decisions_by_verdict", "verdict"),
)
retrains = sa.Table(
    "retrains",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("decision_id", sa.Integer, nullable=False, unique=True),
    sa.Column("model", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # running; final: done, refused (by the gate), failed
    sa.Column("step", sa.String(16), nullable=False),  # running: the current or next step; else the last one
    sa.Column("attempt", sa.Integer, nullable=False),  # at this step, counts from 1; 0: not started
    sa.Column("owner", sa.String(128)),
    sa.Column("fence", sa.Integer, nullable=False),  # grows with every claim; a write with an older number is refused
    sa.Column("lease_wall", sa.Float, nullable=False),  # owned: end of the lease; else: earliest claim
    sa.Column("lease_mono", sa.Float, nullable=False),
    sa.Column("lease_boot", sa.String(64), nullable=False),
    sa.Column("began_wall", sa.Float, nullable=False),
    sa.Column("began_mono", sa.Float, nullable=False),
    sa.Column("began_boot", sa.String(64), nullable=False),
    sa.Column("ended_wall", sa.Float),
    sa.Column("ended_mono", sa.Float),
    sa.Column("ended_boot", sa.String(64)),
    sa.Column("git_commit", sa.String(64)),  # that the retrain started from
    sa.Column("version_in", sa.Integer),  # champion at the time of the decision
    sa.Column("version_out", sa.Integer),
    sa.Column("labels", sa.Integer),  # number of labelled texts in its training data
    sa.Column("feedback_upto", sa.Integer, nullable=False),  # last row of `feedback` in its training data
    sa.Column("progress", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text),  # JSON, from the gate
    sa.Column("failure", sa.Text),  # why it is not done
    sa.Index(
        "one_live_retrain_a_model",
        "model",
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    ),
)
retrain_steps = sa.Table(
    "retrain_steps",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("retrain_id", sa.Integer, nullable=False),
    sa.Column("step", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("began_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("outcome", sa.String(16), nullable=False),  # running, done, failed, lost (its owner went silent)
    sa.Column("detail", sa.Text, nullable=False),
    sa.UniqueConstraint("retrain_id", "step", "attempt", name="one_attempt_once"),
)
gate_verdicts = sa.Table(
    "gate_verdicts",
    metadata,
    sa.Column("content_digest", sa.String(64), primary_key=True),  # of the candidate's package
    sa.Column("champion_digest", sa.String(64)),  # of the package that it was compared with; null: with the floors alone
    sa.Column("verdict", sa.Text, nullable=False),  # JSON
    sa.Column("judged_at", sa.DateTime(timezone=True), nullable=False),
)
