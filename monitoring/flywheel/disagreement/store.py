"""Measured disagreements in the state database. Measures nothing, and imports no model."""

from typing import NamedTuple

import sqlalchemy as sa

from state.tables import disagreements

CONTROL = "control"  # the frozen control as `other`; a version of the registry is its number


class DisagreementMeasurement(NamedTuple):
    """How often the champion and a second model differed, as table `disagreements` has it."""

    version: int
    other: str
    began_at: float
    ended_at: float
    compared: int
    differing: int
    repeated: int
    unstable: int
    reference_rows: int
    reference_differing: int
    gaps: int
    slower: int
    failed: int
    share: float
    lower: float
    upper: float
    measured_at: float


def add_measurement(connection: sa.Connection, measurement: DisagreementMeasurement) -> None:
    """Insert a measurement."""
    connection.execute(disagreements.insert(), measurement._asdict())


def newest_measurements(connection: sa.Connection, version: int, *, since: float) -> list[DisagreementMeasurement]:
    """Return the newest measurement of a champion with each second model, not older than `since`; ordered by the second model."""
    columns = [disagreements.c[name] for name in DisagreementMeasurement._fields]
    query = (
        sa.select(*columns)
        .where(disagreements.c.version == version, disagreements.c.measured_at >= since)
        .order_by(disagreements.c.measured_at, disagreements.c.id)
    )
    newest = {row.other: DisagreementMeasurement(*row) for row in connection.execute(query)}
    return [newest[other] for other in sorted(newest)]
