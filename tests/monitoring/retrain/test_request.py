"""A retrain that a person asks for, with a real journal and controller, and steps that are played."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from monitoring.clock import read_clock
from monitoring.release.gradual import Heartbeat
from monitoring.release.runs import begin_run, first_run, read_run
from monitoring.retrain import request
from monitoring.retrain.app import create_app
from monitoring.retrain.controller import Controller
from monitoring.retrain.decide import Harm, Inputs, PastRetrain
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.journal import Begin, Journal, RetrainJob
from monitoring.retrain.metrics import ControllerMetrics
from monitoring.retrain.request import RequestStatus, controller_answers
from monitoring.retrain.steps import StepResult
from pipeline.params import Params
from pipeline.process_identity import this_process
from serving.processes.ports import free_port
from serving.release.release_table import CheckLease, add_release
from serving.release.routing import read_routes, set_routing
from state.database import open_state
from state.tables import decisions, retrain_steps, retrains
from tests.http_servers import serving_app
from tests.monitoring.release.played import PlayedServing

Reproduce = Callable[[Heartbeat], None]


class PlayedSteps:
    """Steps that succeed at once, except `reproduce`, which a test plays."""

    def __init__(self, reproduce: Reproduce) -> None:
        self._reproduce, self.stopped = reproduce, list[int]()

    def collect(self, _job: RetrainJob) -> StepResult:
        return StepResult("collected", {"labels": 0, "feedback_upto": 0})

    def reproduce(self, _job: RetrainJob, heartbeat: Heartbeat) -> StepResult:
        self._reproduce(heartbeat)
        return StepResult("made", {})

    def gate(self, _job: RetrainJob) -> Verdict:
        return Verdict(True, ("better",), {})

    def publish(self, _job: RetrainJob, _check_lease: CheckLease) -> StepResult:
        return StepResult("published", {"version_out": 2})

    def shadow(self, _job: RetrainJob, _check_lease: CheckLease, _heartbeat: Heartbeat) -> StepResult:
        return StepResult("as good", {})

    def canary(self, _job: RetrainJob, _check_lease: CheckLease, _heartbeat: Heartbeat) -> StepResult:
        return StepResult("no guardrail broke", {})

    def promote(self, _job: RetrainJob, _check_lease: CheckLease) -> StepResult:
        return StepResult("swapped", {})

    def abandon(self, _job: RetrainJob, _check_lease: CheckLease, _outcome: str, _why: str) -> None: ...

    def is_champion(self, _job: RetrainJob) -> bool:
        return False

    def clean(self, _job: RetrainJob) -> None: ...

    def stop(self, job: RetrainJob) -> None:
        self.stopped.append(job.id)

    def sweep(self, _running_id: int | None) -> int:
        return 0


class World:
    """The home of state, the announcements, and what the next retrain does."""

    def __init__(self, params: Params, home: Path, engine: sa.Engine) -> None:
        self.params, self.home, self.engine = params, home, engine
        self.lines: list[str] = []
        self.stopping = threading.Event()
        self.inputs = Inputs(1, "old", "new", (), 0, Harm(False, False))
        self.reproduce: Reproduce = lambda heartbeat: heartbeat("stage train, 39 %")
        self.steps = PlayedSteps(lambda heartbeat: self.reproduce(heartbeat))

    def controller(self, begin: Begin, stopping: threading.Event, *, is_on_request: bool = True) -> Controller:
        def inputs(_connection: sa.Connection, past: list[PastRetrain]) -> Inputs:
            return self.inputs._replace(history=past, is_on_request=is_on_request)

        return Controller(
            Journal(begin, self.params.publish.name),
            self.steps,
            inputs,
            self.params.retrain,
            clock=read_clock,
            owner=this_process(),
            metrics=ControllerMetrics(),
            renewing=lambda _lease: nullcontext(),
            is_ending=stopping.is_set,
            is_on_request=is_on_request,
        )

    def retrain(self) -> RequestStatus:
        self.stopping = threading.Event()
        return request.retrain(self.params, self.home, "a test", self.lines.append, self.stopping)

    def rows(self, table: sa.Table) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.id)).all())


@pytest.fixture
def world(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    changed = params.model_copy(
        update={
            "retrain": params.retrain.model_copy(update={"poll_s": 0.01}),
            "alerts": params.alerts.model_copy(update={"controller_port": free_port()}),
        }
    )
    monkeypatch.setattr(request, "POLL_S", 0.01)
    with open_state(tmp_path) as engine:
        world = World(changed, tmp_path, engine)

        def build(_params: Params, _home: Path, begin: Begin, *parts: Any, is_on_request: bool) -> Controller:
            assert is_on_request  # this process decides on no alert
            return world.controller(begin, parts[-1])

        monkeypatch.setattr("monitoring.retrain.app.build_controller", build)
        yield world


def test_without_a_controller_the_command_does_the_retrain_itself(world: World) -> None:
    status = world.retrain()
    assert status.is_final and status.retrain is not None
    assert (status.retrain["state"], status.retrain["version_out"]) == ("done", 2)
    assert "no controller runs here" in world.lines[0]
    assert [(row.verdict, row.reason) for row in world.rows(decisions)] == [("started", "asked")]


def test_other_inputs_than_the_champions_are_refused_with_the_difference(world: World) -> None:
    world.inputs = world.inputs._replace(other_inputs="version 1 was made with data.source=my.csv")
    status = world.retrain()
    assert (status.verdict, status.reason, status.retrain) == ("refused", "other_inputs", None)
    assert status.facts["other_inputs"] == "version 1 was made with data.source=my.csv"
    assert world.rows(retrains) == []


def test_an_interrupted_retrain_is_given_back_and_the_next_command_continues_it(world: World) -> None:
    def interrupted(heartbeat: Heartbeat) -> None:
        world.stopping.set()  # Ctrl-C
        heartbeat("stage train, 39 %")

    world.reproduce = interrupted
    status = world.retrain()
    assert not status.is_final
    assert "nobody works on it, at step reproduce" in request.describe_rest(status)
    assert world.steps.stopped == [1]  # its `dvc repro` has ended with the command
    assert [row.owner for row in world.rows(retrains)] == [None]

    world.reproduce = lambda heartbeat: heartbeat("stage train, 40 %")
    status = world.retrain()
    assert status.retrain is not None
    assert (status.verdict, status.retrain["id"], status.retrain["state"]) == ("joined", 1, "done")
    steps = [(row.step, row.attempt, row.outcome) for row in world.rows(retrain_steps)]
    assert steps[:2] == [("collect", 1, "done"), ("reproduce", 1, "done")]  # an interruption is no failure


def test_a_cancelled_retrain_ends_for_the_command_that_works_on_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[int] = []

    class Run:
        def __init__(self, *_parts: object) -> None: ...

        def clean(self, job: RetrainJob) -> None:
            cleaned.append(job.id)

    monkeypatch.setattr("monitoring.retrain.run_local.RunLocal", Run)
    monkeypatch.setattr("pipeline.tracking.runs.close_orphans", lambda home: cleaned.append(0))

    def cancelled(heartbeat: Heartbeat) -> None:
        assert request.cancel(world.params, world.home, "cancelled by a person", print) == 1
        heartbeat("stage train, 39 %")
        pytest.fail("the owner wrote after the end")

    world.reproduce = cancelled
    status = world.retrain()
    assert status.retrain is not None
    assert (status.retrain["state"], status.retrain["failure"]) == ("cancelled", "cancelled by a person")
    assert cleaned == [1, 0]  # the run, then its MLflow runs
    assert request.cancel(world.params, world.home, "again", print) is None


def test_a_controller_on_request_leaves_an_automatic_retrain_until_a_person_asks(world: World) -> None:
    begin, going = world.engine.begin, threading.Event()
    automatic, on_request = (world.controller(begin, going, is_on_request=is_on_request) for is_on_request in (False, True))
    request.request_retrain(world.engine, "as if by an alert")
    automatic.decide()
    with begin() as connection:
        connection.execute(decisions.update().values(alertname="EvergreenAccuracyHarm"))
    assert on_request.advance() is None
    request.request_retrain(world.engine, "continue it")
    on_request.decide()
    ended = on_request.advance()
    assert ended is not None and ended.state == "done"


def test_a_running_controller_of_this_home_is_left_to_do_it(world: World, tmp_path: Path) -> None:
    alerts, idle = world.params.alerts, world.controller(world.engine.begin, threading.Event())
    assert not controller_answers(alerts, world.home)
    cycles = {"looking": idle.decide, "working": idle.advance}
    app = create_app(cycles, ControllerMetrics(), world.params, threading.Event(), world.home)
    with serving_app(app, alerts.host, alerts.controller_port):
        assert controller_answers(alerts, world.home)
        assert not controller_answers(alerts, tmp_path / "another home")
        status = world.retrain()
    assert status.retrain is not None and status.retrain["state"] == "done"
    assert "the controller that runs here does it" in world.lines[0]


def test_a_requested_release_begins_at_the_shadow_and_ends_with_the_champion(world: World) -> None:
    stopping = threading.Event()
    status = request.release(world.params, world.home, 2, "a test", world.lines.append, stopping)
    assert status.retrain is not None
    assert (status.verdict, status.reason, status.retrain["state"]) == ("started", "release", "done")
    assert [row.step for row in world.rows(retrain_steps)] == ["shadow", "canary", "promote"]
    assert (status.retrain["version_in"], status.retrain["version_out"], status.retrain["git_commit"]) == (1, 2, None)
    again = request.release(world.params, world.home, 1, "the champion", world.lines.append, threading.Event())
    assert (again.verdict, again.reason, again.retrain) == ("refused", "is_champion", None)


def test_a_cancelled_release_loses_its_shares_with_its_retrain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel from inside the canary: its owner writes nothing more."""
    serving = PlayedServing(world.engine.begin)
    monkeypatch.setattr("monitoring.release.moves.LocalServing", lambda *_parts: serving)
    with world.engine.begin() as connection:
        for version in (1, 2):
            add_release(connection, version, f"content {version}")

    def canary(job: RetrainJob, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult:
        with world.engine.begin() as connection:
            begin_run(connection, first_run(job.id, 2, 1, "salt", 50.0), check_lease)
            set_routing(connection, challenger_weight=0.25, shadow_share=1.0)
        assert request.cancel(world.params, world.home, "cancelled by a person", print) == job.id
        heartbeat("canary: step 1 of 4")
        pytest.fail("the owner wrote after the end")

    monkeypatch.setattr(world.steps, "canary", canary)
    status = request.release(world.params, world.home, 2, "a test", world.lines.append, threading.Event())
    assert status.retrain is not None and status.retrain["state"] == "cancelled"
    with world.engine.begin() as connection:
        run, routes = read_run(connection, status.retrain["id"]), read_routes(connection)
    assert run is not None and (run.outcome, run.reason) == ("aborted", "cancelled by a person")
    assert (routes.champion, routes.challenger, routes.challenger_weight, routes.shadow_share) == (1, None, 0.0, 0.0)
