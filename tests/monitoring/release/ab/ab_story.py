"""A home in which two versions answer: a routing, a prediction log with what they answered, and what callers reported."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from monitoring.release.ab.tests_table import AbTest, begin_test
from serving.prediction import Prediction, Role
from serving.prediction_ids import PredictionIds
from serving.release.release_table import add_release
from serving.release.routing import choose_arm, read_routes, set_routing
from state.database import open_state
from state.tables import outcomes
from tests.monitoring.homes import Gateway

BEGAN = 1_790_000_000.0
IDS = PredictionIds(b"k" * 32)
RULE: dict[str, Any] = {
    "metric": "outcome",
    "caller": None,
    "is_lower_better": False,
    "alpha": 0.05,
    "margin": 0.05,
    "min_units": 50,
    "expected_units": 4000,
}


def publish_two(connection: sa.Connection, weight: float = 0.5) -> None:
    """Make version 1 champion and version 2 challenger with this share of units."""
    for version in (1, 2):
        add_release(connection, version, str(version) * 64)
    set_routing(connection, challenger_weight=weight, shadow_share=0.0)


def begin(connection: sa.Connection, **changed: Any) -> AbTest:
    return begin_test(connection, RULE | changed, weight_before=0.0, at=BEGAN)


def answered(
    version: int,
    *,
    unit: str | None = "customer-7",
    request_id: str = "c" * 24,
    role: Role = "champion",
    at: float = BEGAN + 10,
    label: str = "refund",
    id: str | None = None,
) -> Prediction:
    """Return an answer as the gateway logs it."""
    (issued,) = IDS.issue(at, version, 1)
    return Prediction(
        at, request_id, id or issued, unit, "hello", None, 2, 1.0, version, role, label, 0.9, None, b"", b"", 3.0, False
    )


def report(
    connection: sa.Connection, values: Sequence[tuple[str, float]], *, caller: str = "shop", at: float = BEGAN + 20
) -> None:
    """Store outcomes as the gateway does."""
    rows = [{"prediction_id": id, "caller": caller, "value": value, "received_at": at} for id, value in values]
    connection.execute(outcomes.insert(), rows)


def live(
    home: Path,
    units: int,
    value_of: Callable[[int, int], float],
    *,
    weight: float = 0.5,
    label_of: Callable[[int, int], str] = lambda _version, _number: "refund",
    **changed: Any,
) -> list[Prediction]:
    """Begin a test in a home, answer one text of each unit by the routing, and report an outcome of each; return the answers."""
    with open_state(home) as engine:
        with engine.begin() as connection:
            publish_two(connection, weight)
            begin(connection, **changed)
            routes = read_routes(connection)
        rows = []
        for number in range(units):
            chosen = choose_arm(routes, f"unit-{number}")
            assert chosen is not None
            role: Role = "challenger" if chosen.arm == "challenger" else "champion"
            label = label_of(chosen.version, number)
            rows.append(answered(chosen.version, unit=f"unit-{number}", role=role, label=label))
        Gateway(home, "gateway").write(rows)
        with engine.begin() as connection:
            report(connection, [(row.id, value_of(row.version, number)) for number, row in enumerate(rows)])
    return rows
