"""Five hundred seeds break no promise (`make drill`: ten thousand), and faults in the code that would break one are noticed.

A failing seed is reported by number: python -m tests.monitoring.retrain.simulation --seed N --tell
"""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.sql.visitors import replacement_traverse

from monitoring import retrain_activity
from monitoring.release import gradual
from monitoring.release.gradual import ReleaseEnd
from monitoring.retrain import statements
from monitoring.retrain.decide import Decision
from monitoring.retrain.journal import Journal, RetrainJob
from monitoring.retrain.steps import StepResult
from pipeline.params import Params
from serving.release.release_table import CheckLease
from state.tables import alerts, retrains
from tests.monitoring.retrain.simulation import BrokenPromiseError, FakeSteps, database, quick, simulate

SEEDS = 500


def broken(settings: Params, seeds: range, until: str | None = None) -> list[str]:
    """Return the errors by seed, up to the first that contains `until`."""
    errors = []
    with database() as connection:
        for seed in seeds:
            try:
                simulate(seed, connection, settings)
            except (Exception, BrokenPromiseError) as error:
                errors.append(f"seed {seed}: {type(error).__name__}: {error}")
                if until is not None and until in errors[-1]:
                    break
    return errors


def with_retrain(params: Params, **changed: Any) -> Params:
    return params.model_copy(update={"retrain": params.retrain.model_copy(update=changed)})


def test_no_seed_breaks_a_promise(params: Params) -> None:
    assert broken(quick(params), range(SEEDS)) == []


def test_every_kind_of_event_happens_in_the_simulation(params: Params) -> None:
    counted: dict[str, int] = {}
    with database() as connection:
        for seed in range(60):
            simulate(seed, connection, quick(params), lambda line: counted.update({kind(line): counted.get(kind(line), 0) + 1}))
            with connection.begin():
                for what, number in connection.exec_driver_sql(
                    "SELECT state || ' at ' || step, count(*) FROM retrains GROUP BY 1"
                ):
                    counted[what] = counted.get(what, 0) + number
    expected = [
        "dies before a commit", "dies after a commit", "dies at work", "falls silent", "wall clock is set", "machine restarts",
        "dvc repro is killed", "started harm", "started labels", "joined running", "refused over", "waiting cooldown",
        "waiting settling", "waiting no_harm", "refused not_a_cause", "refused another_version", "done at promote",
        "refused at gate", "refused at shadow", "rolled_back at canary", "aborted at shadow", "promote", "roll",
    ]  # fmt: skip
    assert [what for what in expected if not counted.get(what)] == [], counted


def kind(line: str) -> str:
    for known in (
        "dies before a commit",
        "dies after a commit",
        "dies at work",
        "falls silent",
        "wall clock",
        "machine",
        "is killed",
    ):
        if known in line:
            return {"wall clock": "wall clock is set", "machine": "machine restarts", "is killed": "dvc repro is killed"}.get(
                known, known
            )
    return line.removeprefix("decided: ") if line.startswith("decided: ") else line.split()[0]


# Faults put into the code on purpose: the simulation must notice each of them.


@pytest.fixture
def faulty(params: Params, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def run(*faults: tuple[Any, str, Any], until: str) -> list[str]:
        for owner, name, value in faults:
            monkeypatch.setattr(owner, name, value)
        return [line for line in broken(quick(params), range(500), until) if until in line]

    yield run


def test_a_fence_that_is_not_checked_is_noticed(faulty: Any) -> None:
    any_fence = sa.or_(statements.HAS_FENCE, retrains.c.fence > 0)

    def blind(element: Any, **_: Any) -> Any:
        return any_fence if element is statements.HAS_FENCE else None

    checked = [name for name, it in vars(statements).items() if isinstance(it, sa.sql.Executable) and "the_fence" in str(it)]
    assert len(checked) == 5
    faults = [(statements, name, replacement_traverse(getattr(statements, name), {}, blind)) for name in checked]
    assert faulty(*faults, until="P3")


def test_a_lease_that_is_ignored_is_noticed(faulty: Any) -> None:
    assert faulty((retrain_activity, "is_past", lambda *_: True), until="lease")


def test_a_last_attempt_at_the_swap_that_promoted_and_is_recorded_as_failed_is_noticed(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = FakeSteps.promote

    def promote_and_fail(steps: FakeSteps, job: RetrainJob, check_lease: CheckLease) -> StepResult | ReleaseEnd:
        end = promote(steps, job, check_lease)
        if isinstance(end, ReleaseEnd):
            return end
        raise OSError("the connection broke after the promotion")

    monkeypatch.setattr(FakeSteps, "promote", promote_and_fail)
    once = with_retrain(quick(params), attempts=1)
    assert broken(once, range(30)) == []
    monkeypatch.setattr(FakeSteps, "is_champion", lambda *_: False)
    assert broken(once, range(30), until="P4")


def test_alerts_without_their_unique_key_are_noticed(faulty: Any) -> None:
    others = {item for item in alerts.constraints if not isinstance(item, sa.UniqueConstraint)}
    assert faulty((alerts, "constraints", others), until="in the journal twice")


def test_a_cool_down_by_the_wall_clock_is_noticed(faulty: Any) -> None:
    from monitoring.retrain import decide

    assert faulty((decide, "elapsed_s", lambda then, now: max(0.0, now.wall - then.wall)), until="cool-down")


def test_an_acknowledgement_before_the_commit_is_noticed(faulty: Any) -> None:
    from tests.monitoring.retrain.simulation import World

    def receive(world: World, received: list[Any]) -> None:
        world.acknowledged |= {alert[:3] for alert in received}
        world.posted = [alert for alert in world.posted if alert not in received]

    assert faulty((World, "receive", receive), until="P1")


def test_decisions_in_two_transactions_are_noticed(faulty: Any) -> None:
    decide = Journal.decide

    def twice(journal: Journal, make_decisions: Any, now: Any) -> list[Decision]:
        made: list[Decision] = []

        def remember(*arguments: Any) -> list[Decision]:
            made[:] = make_decisions(*arguments)
            return []

        decide(journal, remember, now)
        journal.running_job()  # a controller may die here
        return decide(journal, lambda *_: [decision for decision in made if decision.outcome != "started"], now)

    assert faulty((Journal, "decide", twice), until="P2")


def test_a_guardrail_that_nobody_reads_is_noticed(faulty: Any) -> None:
    assert faulty((gradual, "broken_guardrail", lambda *_: None), until="P11")


def test_an_end_without_its_release_is_noticed(faulty: Any) -> None:
    assert faulty((gradual, "end_run", lambda *_, **__: True), until="P11")
