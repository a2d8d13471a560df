"""Tables of the retrain controller (`monitoring.retrain`), its releases and A/B tests (`monitoring.release`)."""

import sqlalchemy as sa

from state.tables.schema import metadata

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
    sa.Column("state", sa.String(16), nullable=False),  # running; final: done, refused, rolled_back, aborted, failed, cancelled
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
    sa.Column("made_wall", sa.Float),  # when its model was published: what follows is its release, and costs no training
    sa.Column("made_mono", sa.Float),
    sa.Column("made_boot", sa.String(64)),
    sa.Column("git_commit", sa.String(64)),  # that the retrain started from; null: the release of a version that existed
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
release_runs = sa.Table(
    "release_runs",  # the gradual release at the end of a retrain; the retrain's lease guards every write
    metadata,
    sa.Column("retrain_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),  # the challenger
    sa.Column("champion", sa.Integer, nullable=False),  # with which it is compared
    sa.Column("salt", sa.String(32), nullable=False),  # of the routing, under which the gateways count
    sa.Column("stage", sa.String(16), nullable=False),  # shadow, canary, promote, ended
    sa.Column("rung", sa.Integer, nullable=False),  # of release.steps, in the canary; counts from 0
    sa.Column("wish", sa.String(16), nullable=False),  # of a person: none, pause, abort
    sa.Column("evidence", sa.Text, nullable=False),  # JSON: the state of every test
    sa.Column("began_at", sa.Float, nullable=False),
    sa.Column("stage_began_at", sa.Float, nullable=False),  # the stage's, or the rung's
    sa.Column("looked_at", sa.Float),  # of the last look
    sa.Column("outcome", sa.String(16)),  # promoted, refused (in the shadow), rolled_back, aborted; null: it runs
    sa.Column("reason", sa.Text),  # for people
    sa.Column("broken", sa.String(32)),  # the guardrail that broke
    sa.Column("examples", sa.Text),  # JSON: texts that show it
    sa.Column("ended_at", sa.Float),
)
ab_tests = sa.Table(
    "ab_tests",  # A: the champion; B: the challenger
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),  # running, ended
    sa.Column("champion", sa.Integer, nullable=False),
    sa.Column("challenger", sa.Integer, nullable=False),
    sa.Column("salt", sa.String(32), nullable=False),  # of the routing: with the weight it says which arm a unit is in
    sa.Column("weight", sa.Float, nullable=False),
    sa.Column("weight_before", sa.Float, nullable=False),  # of the challenger, which it gets again when the test ends
    sa.Column("metric", sa.String(16), nullable=False),  # outcome, feedback
    sa.Column("caller", sa.String(64)),  # only outcomes that this caller reported; null: everybody's
    sa.Column("is_lower_better", sa.Boolean, nullable=False),
    sa.Column("alpha", sa.Float, nullable=False),  # the rule is fixed when a test begins
    sa.Column("margin", sa.Float, nullable=False),
    sa.Column("min_units", sa.Integer, nullable=False),
    sa.Column("expected_units", sa.Integer, nullable=False),
    sa.Column("began_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("verdict", sa.Text),  # JSON: the first one that was reached, or the last look's when the test ended without
    sa.Index(
        "one_running_ab_test",
        "state",
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    ),
)
