"""The gate's last verdict on each package, by its content: who publishes it later must know what the gate said."""

from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.retrain.gate.verdict import Verdict
from state.tables import gate_verdicts


class RecordedVerdict(NamedTuple):
    """A verdict, the content of the champion that it compared with (None: the floors alone), and its time."""

    verdict: Verdict
    champion_digest: str | None
    judged_at: datetime


def record_verdict(connection: sa.Connection, verdict: Verdict, digest: str, champion_digest: str | None = None) -> None:
    """Record the verdict on the package of this content; it replaces the last one."""
    connection.execute(gate_verdicts.delete().where(gate_verdicts.c.content_digest == digest))
    values = {"content_digest": digest, "champion_digest": champion_digest, "verdict": verdict.as_json()}
    connection.execute(gate_verdicts.insert().values(**values, judged_at=datetime.now(UTC)))


def find_verdict(connection: sa.Connection, digest: str) -> RecordedVerdict | None:
    """Return the last verdict on the package of this content."""
    c = gate_verdicts.c
    columns = sa.select(c.verdict, c.champion_digest, c.judged_at).where(c.content_digest == digest)
    row = connection.execute(columns).one_or_none()
    return RecordedVerdict(Verdict.from_json(row.verdict), row.champion_digest, row.judged_at) if row else None
