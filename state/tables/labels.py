"""Tables of labels and of the flywheel (`monitoring.labels`, `monitoring.flywheel`)."""

import sqlalchemy as sa

from state.tables.schema import metadata

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
