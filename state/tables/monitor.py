"""Tables of the monitor (`monitoring.monitor`)."""

import sqlalchemy as sa

from state.tables.schema import metadata

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
