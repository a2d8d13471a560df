"""The schema of the state database: every table of every process, in one folder. Knows no query.

They are together because one database has one history of migrations. Queries live with the package that owns a table:
`serving.release` has releases and routing, `serving.jobs` jobs, `monitoring.monitor` windows and signals, `monitoring.labels`
feedback, labellers and settlements, `monitoring.flywheel` disagreements and queue actions, `monitoring.retrain` alerts,
decisions, retrains and verdicts, `monitoring.release` gradual releases and A/B tests.

A time from which a wait is measured is stored as three columns: seconds since the epoch (`_wall`), seconds since boot (`_mono`)
and the id of that boot (`_boot`). So a clock that jumps changes no wait. Other `Float` times are seconds since the epoch.
"""

from state.tables.labels import disagreements, feedback, intent_proposals, label_returns, labellers, queue_actions, settlements
from state.tables.monitor import answers, judgements, monitor, signals, windows
from state.tables.retrain import ab_tests, alerts, decisions, gate_verdicts, release_runs, retrain_steps, retrains
from state.tables.schema import metadata
from state.tables.serving import arm_counts, arm_latencies, jobs, outcomes, releases, routing

__all__ = [
    "ab_tests",
    "alerts",
    "answers",
    "arm_counts",
    "arm_latencies",
    "decisions",
    "disagreements",
    "feedback",
    "gate_verdicts",
    "intent_proposals",
    "jobs",
    "judgements",
    "label_returns",
    "labellers",
    "metadata",
    "monitor",
    "outcomes",
    "queue_actions",
    "release_runs",
    "releases",
    "retrain_steps",
    "retrains",
    "routing",
    "settlements",
    "signals",
    "windows",
]
