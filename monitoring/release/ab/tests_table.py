"""The rows of A/B tests: begun, given their first verdict, ended. At most one runs at a time; the database sees to it."""

import json
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from monitoring.release.ab.intervals import StoppingRule
from monitoring.release.ab.units import AbArms
from monitoring.release.runs import running_run
from pipeline.errors import RefusedError
from serving.release.routing import read_routes
from state.tables import ab_tests

AbMetric = Literal["outcome", "feedback"]


class AbTest(NamedTuple):
    """A test that runs or has ended. Times are seconds of the epoch."""

    id: int
    champion: int  # A
    challenger: int  # B
    salt: str
    weight: float  # B's share of units
    weight_before: float
    metric: AbMetric
    caller: str | None  # only outcomes that this caller reported; None: everybody's
    is_lower_better: bool
    alpha: float
    margin: float
    min_units: int
    expected_units: int
    began_at: float
    ended_at: float | None
    verdict: dict[str, Any] | None  # the first one that was reached, or the last look's when the test ended without

    @property
    def rule(self) -> StoppingRule:
        """Return when it ends."""
        return StoppingRule(self.alpha, self.margin, self.min_units, self.expected_units)

    @property
    def arms(self) -> AbArms:
        """Return what makes its arms."""
        return AbArms(self.salt, self.weight, self.champion, self.challenger)


_READ = sa.select(*(ab_tests.c[name] for name in AbTest._fields)).order_by(ab_tests.c.id.desc())


def running_test(connection: sa.Connection) -> AbTest | None:
    """Return the test that runs, None when none does."""
    row = connection.execute(_READ.where(ab_tests.c.state == "running")).one_or_none()
    return _test(row) if row else None


def newest_tests(connection: sa.Connection, at_most: int) -> list[AbTest]:
    """Return the newest tests, the newest first; none from a database of an earlier release."""
    if not sa.inspect(connection).has_table(ab_tests.name):
        return []
    return [_test(row) for row in connection.execute(_READ.limit(at_most))]


def refuse_second(connection: sa.Connection) -> None:
    """Raise `RefusedError` while something else uses the challenger's share: a gradual release, or another test."""
    if (release := running_run(connection)) is not None:
        what = f"a gradual release of version {release.version} runs, and both would use the challenger's share"
        raise RefusedError("ab start", what, "wait for its end (.venv/bin/evergreen status), or abort the release first")
    if (test := running_test(connection)) is not None:
        raise _already_running(test.id)


def begin_test(connection: sa.Connection, settings: dict[str, Any], *, weight_before: float, at: float) -> AbTest:
    """Insert a test over the routing as it stands; raise `RefusedError` as `refuse_second` does."""
    refuse_second(connection)
    routes = read_routes(connection)
    row = settings | {
        "state": "running",
        "champion": routes.champion,
        "challenger": routes.challenger,
        "salt": routes.salt,
        "weight": routes.challenger_weight,
        "weight_before": weight_before,
        "began_at": at,
    }
    try:
        with connection.begin_nested():
            connection.execute(ab_tests.insert(), row)
    except sa.exc.IntegrityError:  # another command was faster
        raise _already_running(None) from None
    test = running_test(connection)
    assert test is not None  # noqa: S101 (inserted above)
    return test


def keep_verdict(connection: sa.Connection, id: int, verdict: dict[str, Any]) -> None:
    """Store the verdict of a running test unless it has one: the first one stands."""
    is_open = (ab_tests.c.id == id) & (ab_tests.c.state == "running") & ab_tests.c.verdict.is_(None)
    connection.execute(ab_tests.update().where(is_open).values(verdict=json.dumps(verdict)))


def end_test(connection: sa.Connection, id: int, verdict: dict[str, Any], at: float) -> bool:
    """End a test with its first verdict, or with this one when it has none; return False when it has ended before."""
    keep_verdict(connection, id, verdict)
    is_running = (ab_tests.c.id == id) & (ab_tests.c.state == "running")
    return connection.execute(ab_tests.update().where(is_running).values(state="ended", ended_at=at)).rowcount == 1


def is_interrupted(connection: sa.Connection, test: AbTest) -> bool:
    """Return whether the routing is no longer the one that the test began with."""
    routes = read_routes(connection)
    return test.arms != AbArms(routes.salt, routes.challenger_weight, routes.champion or 0, routes.challenger or 0)


def _already_running(id: int | None) -> RefusedError:
    what = f"A/B test {id} runs already" if id else "another A/B test has just begun"
    return RefusedError("ab start", what, "end it first: .venv/bin/evergreen ab stop")


def _test(row: sa.Row[Any]) -> AbTest:
    values = dict(row._mapping)
    return AbTest(**values | {"verdict": json.loads(values["verdict"]) if values["verdict"] else None})
