"""Simulates receiver and controllers in one thread, with a clock and faults drawn from a seed, and checks every promise.

The journal is the real one, on SQLite in memory. Controllers die before and after every commit and between the parts of every
step, pause for longer than their lease and go on; webhooks arrive twice, late and in any order; clocks jump; machines restart.

    python -m tests.monitoring.retrain.simulation --seeds 10000          every seed from 0; prints those that broke a promise
    python -m tests.monitoring.retrain.simulation --seed 4711 --tell     one seed, with everything that happened
"""

import argparse
import gc
import json
import random
import sqlite3
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
import structlog

from monitoring.clock import Moment
from monitoring.release.gradual import GradualRelease, Heartbeat, ReleaseAccess, ReleaseEnd, end_of
from monitoring.release.runs import ReleaseOutcome, ReleaseRun, Stage
from monitoring.retrain.alerts import ReceivedAlert, insert_alerts
from monitoring.retrain.controller import Controller
from monitoring.retrain.decide import RELEASE_ASKED, Harm, Inputs, PastRetrain
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.journal import Journal, Lease, RetrainJob
from monitoring.retrain.metrics import ControllerMetrics
from monitoring.retrain.steps import StepResult, version_of
from monitoring.retrain_activity import RELEASE_STEPS
from pipeline.errors import RefusedError, ToolError
from pipeline.params import Params, ReleaseSettings, Retrain, load_params
from serving.release.release_table import UNIQUE_ROLES, CheckLease, add_release, roles
from state.tables import alerts, decisions, metadata, release_runs, releases, retrain_steps, retrains, routing
from tests.faults.retraining.history import History, broken
from tests.monitoring.release.played import PlayedServing, PlayedWatch, Seen

EVENTS, ROUNDS = 10, 6
QUICK = {
    "settle_s": 20, "label_wait_s": 300, "cooldown_s": 3600, "patience_s": 30_000, "budget_s": 3000, "min_labels": 50,
    "lease_s": 60, "attempts": 3, "retry_s": 30, "poll_s": 5,
}  # fmt: skip
QUICK_RELEASE = {"how": "gradual", "min_pairs": 300, "labels": 150, "steps": "0.1 0.5", "step_answers": 100, "poll_s": 5}
KINDS = ("good", "good", "good", "worse", "failing", "refused")  # on live traffic; failing: once it answers callers
NAMES = ("EvergreenDrift", "EvergreenWindowDrift", "EvergreenAccuracyHarm", "EvergreenReferenceOld", "'; DROP TABLE alerts; --")
METRICS = ControllerMetrics()
TABLES = (alerts, decisions, retrains, retrain_steps, release_runs, releases, routing)
ROWS = {table: namedtuple(table.name, table.columns.keys()) for table in TABLES}  # type: ignore[misc]
IS_OPEN = (
    "SELECT EXISTS (SELECT 1 FROM decisions WHERE verdict = 'waiting') OR EXISTS (SELECT 1 FROM retrains WHERE state = 'running')"
)


class CrashError(BaseException):
    """A simulated kill -9."""


class BrokenPromiseError(BaseException):
    """A promise was not kept; no `except Exception` of the code under test may hide it."""


class World:
    """The environment of the code under test; `rng` draws every event."""

    def __init__(
        self, seed: int, connection: sa.Connection, settings: Retrain, release: ReleaseSettings, announce: Callable[[str], None]
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 (no secret)
        self.connection, self.settings, self.release, self.announce = connection, settings, release, announce
        self.sqlite = driver(connection)  # the same database, for the observers
        self.true_s, self.shift_s, self.boots, self.booted_s = 1e9, 0.0, 0, 1e9 - 50_000
        self.acting, self.depth, self.is_calm = "", 0, False
        self.crash_share = self.rng.choice([0.0, 0.02, 0.1])
        self.names = {slot: slot for slot in "AB"}  # of the living controllers
        self.lives = 0
        self.controllers = {slot: self.controller(slot) for slot in "AB"}
        self.posted: list[ReceivedAlert] = []  # messages of Alertmanager
        self.acknowledged: set[tuple[str, float, str]] = set()
        self.passed: dict[int, bool] = {}
        self.kinds: dict[int, str] = {}  # of the models that are released, by retrain id
        self.children: dict[int, float] = {}  # retrain id → when its dvc repro ends
        self.runs: dict[int, list[str]] = {}  # retrain id → status of its MLflow runs
        self.began: dict[int, tuple[float, int]] = {}  # retrain id → true time, boot
        self.made: dict[int, tuple[float, int]] = {}
        self.ended: dict[int, tuple[float, int]] = {}
        self.labels = self.rng.choice([0, 10, 80])

    # --- time

    def now(self) -> Moment:
        return Moment(self.true_s + self.shift_s, self.true_s - self.booted_s, f"boot {self.boots}")

    def pass_time(self, seconds: float) -> None:
        self.true_s += seconds

    # --- the journal, with crashes before and after each commit

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        with self.connection.begin():
            yield self.connection
            self.maybe_crash("before a commit")
        self.maybe_crash("after a commit")

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self.connection.begin():
            yield self.connection

    def maybe_crash(self, where: str) -> None:
        if not self.is_calm and self.rng.random() < self.crash_share:
            self.announce(f"  {self.acting} dies {where}")
            raise CrashError

    def controller(self, slot: str) -> Controller:
        self.lives += 1
        self.names[slot] = f"{slot}{self.lives}"
        return Controller(
            WatchedJournal(self),
            FakeSteps(self),
            self.inputs,
            self.settings,
            clock=self.now,
            owner=self.names[slot],
            metrics=METRICS,
            renewing=lambda _lease: nullcontext(),
            is_ending=lambda: not self.is_calm and self.rng.random() < 0.02,
        )

    def inputs(self, connection: sa.Connection, past: list[PastRetrain]) -> Inputs:
        champion = roles(connection).get("champion")
        harm = Harm(self.rng.random() < 0.6, self.rng.random() < 0.1)
        return Inputs(champion, "first", self.rng.choice(["first", *(f"commit {n}" for n in range(5))]), past, self.labels, harm)

    # --- events

    def run_all(self) -> None:
        """Draw some events, let the system settle, then check the promises."""
        events = [
            (6, self.post_new), (10, self.deliver), (8, self.decide), (9, self.work), (4, self.wait), (2, self.label),
            (1, self.jump), (1, self.restart), (1, self.kill_child), (2, self.finish), (1, self.ask_for_release), (2, self.wish),
        ]  # fmt: skip
        weights, actions = [weight for weight, _ in events], [action for _, action in events]
        for action in self.rng.choices(actions, weights, k=EVENTS):
            action()
            self.observe()
        for _ in range(ROUNDS):  # open work continues, and so do the faults
            for action in (self.decide, self.work, self.rng.choices(actions, weights)[0]):
                action()
                self.observe()
            self.pass_time(31)
        self.settle()
        self.check()

    def settle(self) -> None:
        self.is_calm = True
        self.wish("none")
        self.close()
        if self.rng.random() < 0.5:
            self.jump()
        for _ in range(2):  # soon after a retrain, perhaps
            self.post_new()
        self.close()
        self.pass_time(self.settings.lease_s)
        self.work()

    def close(self) -> None:
        """Deliver everything and work until nothing waits and nothing runs."""
        for alert in self.posted:
            if alert[:3] not in self.acknowledged:
                self.receive([alert])
        for _ in range(200):
            self.decide()
            self.work()
            self.observe()
            if self.sqlite.execute(IS_OPEN).fetchone() == (0,):
                break
            self.pass_time(self.rng.choice([61, 5000, 31_000]))

    def post_new(self) -> None:
        episode, began = f"f{self.rng.randrange(6)}", self.true_s + self.rng.choice([0, -30, 0.5, 7200])
        champion = self.champion()
        version = self.rng.choice([champion] * 8 + [champion + 1, "../1"])
        labels = {"alertname": self.rng.choices(NAMES, [6, 3, 4, 1, 1])[0], "version": str(version)}
        messages = [ReceivedAlert(episode, began, status, json.dumps({"labels": labels})) for status in ("firing", "resolved")]
        self.posted += messages if self.rng.random() < 0.25 else messages[:1]
        self.announce(f"alert {episode} {labels}, {len(self.posted)} messages")

    def deliver(self) -> None:
        """Deliver some messages of any age, possibly for the tenth time."""
        if self.posted:
            recent = self.posted[-4:]
            self.receive(self.rng.sample(recent, self.rng.randint(1, len(recent))) + self.rng.choices(self.posted, k=1))

    def receive(self, received: list[ReceivedAlert]) -> None:
        """Act as the receiver: acknowledge after the commit, or not at all."""
        self.acting = "receiver"
        try:
            with self.begin() as connection:
                insert_alerts(connection, received, self.now().wall)
        except CrashError:
            return
        self.acknowledged |= {alert[:3] for alert in received}

    def decide(self) -> None:
        for decision in self.run(self.rng.choice("AB"), lambda controller: controller.decide()) or ():
            self.announce(f"decided: {decision.outcome} {decision.reason}")

    def work(self) -> None:
        self.run(self.rng.choice("AB"), lambda controller: controller.advance())

    def run(self, slot: str, action: Callable[[Controller], Any]) -> Any:
        """Run an action of a controller; one that dies is replaced by a new one without memory."""
        caller = self.acting
        self.acting = self.names[slot]
        try:
            return action(self.controllers[slot])
        except CrashError:
            self.controllers[slot] = self.controller(slot)
            return None
        finally:
            self.acting = caller

    def stall(self) -> None:
        """Let the controller die in the middle of a step, or pause while others go on."""
        self.maybe_crash("at work")
        if self.is_calm or self.depth or self.rng.random() > 0.15:
            return
        self.depth += 1
        acting = self.acting
        self.announce(f"  {acting} falls silent")
        for _ in range(3):
            self.pass_time(self.rng.choice([10, 61, 200]))
            other = "B" if acting.startswith("A") else "A"
            self.run(other, lambda controller: controller.decide() if self.rng.random() < 0.3 else controller.advance())
            self.observe()
        self.acting = acting
        self.depth -= 1
        self.announce(f"  {acting} goes on")

    def wait(self) -> None:
        self.pass_time(self.rng.choice([5, 61, 61, 61, 400, 4000]))

    def finish(self) -> None:
        """Let an alert end."""
        ended = [alert._replace(status="resolved") for alert in self.posted]
        if ended:
            self.posted.append(self.rng.choice(ended))

    def ask_for_release(self) -> None:
        """Let a person ask for the release of a version, old or current."""
        version = self.rng.choice([row.version for row in self.rows(releases)])
        body = json.dumps({"labels": {"alertname": RELEASE_ASKED, "version": str(version)}})
        self.posted.append(ReceivedAlert(f"asked {self.true_s} {len(self.posted)}", self.true_s, "firing", body))
        self.announce(f"a person asks for version {version}")

    def wish(self, wish: str | None = None) -> None:
        """Let a person pause, resume or end the running release."""
        wish = self.rng.choice(["pause", "none", "abort"]) if wish is None else wish
        changed = self.sqlite.execute("UPDATE release_runs SET wish = ? WHERE outcome IS NULL AND wish != 'abort'", (wish,))
        if changed.rowcount:
            self.announce(f"a person wishes {wish}")

    def label(self) -> None:
        self.labels = self.rng.choice([0, 10, 80])

    def jump(self) -> None:
        self.shift_s += self.rng.choice([-90_000, -3600, 3600, 90_000])
        self.announce("the wall clock is set")

    def restart(self) -> None:
        """Restart the machine; every process dies."""
        self.boots += 1
        self.pass_time(30)
        self.booted_s = self.true_s
        self.children.clear()
        self.controllers = {slot: self.controller(slot) for slot in "AB"}
        self.announce("the machine restarts")

    def kill_child(self) -> None:
        if self.children:
            self.children.pop(self.rng.choice(list(self.children)))
            self.announce("dvc repro is killed")

    def observe(self) -> None:
        """Note the start and end of retrains in true time, and check each start."""
        for id, state, made in self.sqlite.execute("SELECT id, state, made_wall FROM retrains ORDER BY id"):
            if id not in self.began:
                self.began[id] = (self.true_s, self.boots)
                self.check_start(id)
            if made is not None and id not in self.made:
                self.made[id] = (self.true_s, self.boots)
            if state != "running" and id not in self.ended:
                self.ended[id] = (self.true_s, self.boots)

    def rows(self, table: sa.Table) -> list[Any]:
        """Return all rows of a table, in order."""
        return [ROWS[table](*row) for row in self.sqlite.execute(f"SELECT * FROM {table.name} ORDER BY 1")]  # noqa: S608 (our own)

    def champion(self) -> int:
        """Return the champion by the release table."""
        (version,) = self.sqlite.execute("SELECT version FROM releases WHERE role = 'champion'").fetchone()
        return int(version)

    # --- promises

    def check_start(self, id: int) -> None:
        if any(other not in self.ended for other in self.began if other != id):
            raise BrokenPromiseError("P3: a retrain began while another ran")
        (step,) = self.sqlite.execute("SELECT step FROM retrains WHERE id = ?", (id,)).fetchone()
        if step in RELEASE_STEPS:  # a person has asked for it
            return
        rest = min((self.true_s - at for at, _ in self.ended.values()), default=None)
        if rest is not None and rest < self.settings.cooldown_s:
            raise BrokenPromiseError(f"cool-down: a retrain began {rest} s after another ended")
        day = [other for other in self.ended if self.true_s - self.began[other][0] < 86_400]
        ends = {other: self.made.get(other, self.ended[other]) for other in day}
        spent = sum(ends[o][0] - self.began[o][0] for o in day if ends[o][1] == self.began[o][1])
        if spent >= self.settings.budget_s:
            raise BrokenPromiseError(f"budget: a retrain began after {spent} s of compute in a day")

    def check_owner(self, job: RetrainJob) -> None:
        """Check that the writer to the release table owns the retrain, in the same transaction."""
        row = self.sqlite.execute("SELECT owner, state FROM retrains WHERE id = ?", (job.id,)).fetchone()
        if row != (self.acting, "running"):
            raise BrokenPromiseError(f"P3: {self.acting} wrote, and the journal says {row}")

    def check(self) -> None:
        received, decided, run, steps, released = (
            self.rows(table) for table in (alerts, decisions, retrains, retrain_steps, releases)
        )
        history = History(
            frozenset(self.acknowledged),
            1,
            received,
            decided,
            run,
            steps,
            {row.version: row.content_digest for row in released},
            {row.role: row.version for row in released if row.role in UNIQUE_ROLES},
            running=sum(status == "RUNNING" for runs in self.runs.values() for status in runs),
            release_runs=self.rows(release_runs),
        )
        for message in broken(history):
            raise BrokenPromiseError(message)
        if any(row.state == "done" and row.git_commit and not self.passed.get(row.id) for row in run):
            raise BrokenPromiseError("P4: published without having passed the gate")
        for release in history.release_runs:
            if release.outcome == "promoted" and self.kinds[release.retrain_id] != "good":
                raise BrokenPromiseError(f"P11: a model that was {self.kinds[release.retrain_id]} was promoted")
        ((weight, share),) = self.sqlite.execute("SELECT challenger_weight, shadow_share FROM routing").fetchall()
        if weight or share:
            raise BrokenPromiseError("P11: nothing is released, and the challenger has a share")
        if self.children:
            raise BrokenPromiseError("a run of the pipeline outlived its retrain")


class WatchedJournal(Journal):
    """The journal, with a check that a lease had expired when another controller claims the retrain."""

    def __init__(self, world: World) -> None:
        super().__init__(world.begin, "evergreen")
        self.world = world

    def claim(self, owner: str, now: Moment, *, lease_s: float) -> tuple[Lease, RetrainJob] | None:
        leases = self.world.sqlite.execute("SELECT lease_mono, lease_boot FROM retrains WHERE state = 'running'").fetchall()
        claimed = super().claim(owner, now, lease_s=lease_s)
        if claimed and any(boot == now.boot and now.mono < end for end, boot in leases):
            raise BrokenPromiseError("P3: a retrain was taken before its lease was over")
        return claimed


class FakeSteps:
    """Steps that take time, fail, and can be repeated."""

    def __init__(self, world: World) -> None:
        self.world = world

    def collect(self, job: RetrainJob) -> StepResult:
        self._trouble(0.05)
        for id in [id for id in self.world.children if id != job.id]:  # the tree of another retrain is deleted
            self.world.children.pop(id)
        return StepResult("collected", {"labels": self.world.labels, "feedback_upto": 0})

    def reproduce(self, job: RetrainJob, heartbeat: Heartbeat) -> StepResult:
        world = self.world
        if job.id not in world.children and "FINISHED" not in world.runs.get(job.id, []):
            if world.children:
                raise BrokenPromiseError("P3: two runs of the pipeline at once")
            world.children[job.id] = world.true_s + world.rng.choice([20, 90, 200])
            world.runs.setdefault(job.id, []).append("RUNNING")
            world.announce(f"  dvc repro for retrain {job.id}")
        world.stall()
        while job.id in world.children and world.true_s < world.children[job.id]:
            heartbeat("stage train")
            world.pass_time(40)
            if world.rng.random() < 0.1:
                world.kill_child()
            world.stall()
        if world.children.pop(job.id, None) is None and "FINISHED" not in world.runs[job.id]:
            raise ToolError("dvc repro", "it was killed", "again")
        world.runs[job.id][-1] = "FINISHED"
        return StepResult("made", {})

    def gate(self, job: RetrainJob) -> Verdict:
        self._trouble(0.05)
        passed = self.world.passed.setdefault(job.id, self.world.rng.random() < 0.75)
        return Verdict(passed, ("better" if passed else "worse on the old slice",), {"p": 0.5})

    def publish(self, job: RetrainJob, check_lease: CheckLease) -> StepResult:
        self._trouble(0.1)
        with self.world.begin() as connection:
            check_lease(connection)
            release = add_release(connection, job.id + 1, f"content {job.id}")
            self.world.check_owner(job)
        self.world.stall()
        return StepResult("published", {"version_out": release.version})

    def shadow(self, job: RetrainJob, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        return self._work(job, "shadow", check_lease, heartbeat)

    def canary(self, job: RetrainJob, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        return self._work(job, "canary", check_lease, heartbeat)

    def promote(self, job: RetrainJob, check_lease: CheckLease) -> StepResult | ReleaseEnd:
        self._trouble(0.05)
        release = self._release(job, check_lease)
        run = release.read(job.id)
        if run is None:  # it was champion before
            return StepResult("champion already", {})
        run, _ = release.promote(run) if end_of(run) is None else (run, False)
        return end_of(run) or StepResult("swapped", {})

    def abandon(self, job: RetrainJob, check_lease: CheckLease, outcome: ReleaseOutcome, why: str) -> None:
        release = self._release(job, check_lease)
        if run := release.read(job.id):
            release.take_back(run, outcome, why)

    def _work(self, job: RetrainJob, stage: Stage, check_lease: CheckLease, heartbeat: Heartbeat) -> StepResult | ReleaseEnd:
        self._trouble(0.05)
        release = self._release(job, check_lease)
        run = release.begin(job.id, version_of(job))
        if run is None:
            return StepResult("champion already", {})
        run = release.work(run, stage, heartbeat) if run.outcome is None else run
        return end_of(run) or StepResult(f"{stage} is over", {})

    def _release(self, job: RetrainJob, check_lease: CheckLease) -> GradualRelease:
        world, kind = self.world, self.world.kinds.setdefault(job.id, self.world.rng.choice(KINDS))

        def check(connection: sa.Connection) -> None:
            check_lease(connection)
            world.check_owner(job)

        def before(move: str) -> None:
            world.stall()
            world.announce(f"  {move}")
            if kind == "refused" and move.startswith("route"):
                raise RefusedError("intent", "golden answers differ", "")
            if not world.is_calm and world.rng.random() < 0.3:
                raise ToolError("Triton", "is away", "")

        def look(run: ReleaseRun) -> Seen:
            self._trouble(0.1)
            if not world.is_calm and world.rng.random() < 0.3:
                world.wish()
            if not world.is_calm and world.rng.random() < 0.3:
                return Seen()  # no traffic
            if run.stage == "shadow":
                return Seen([0] * 300 + [-1 if kind == "worse" else 1] * 15)
            return Seen(answered=60, failed=50 if kind == "failing" else 0)

        return GradualRelease(
            ReleaseAccess(world.begin, world.reading, check),
            PlayedServing(world.begin, before),
            lambda _run: PlayedWatch(world.release, look),
            world.release,
            clock=lambda: world.now().wall,
            wait=world.pass_time,
        )

    def is_champion(self, job: RetrainJob) -> bool:
        return self.world.champion() == job.version_out

    def clean(self, job: RetrainJob) -> None:
        self.world.children.pop(job.id, None)

    def stop(self, job: RetrainJob) -> None:
        self.world.children.pop(job.id, None)

    def sweep(self, running_id: int | None) -> int:
        self.world.maybe_crash("sweeping")
        for id in [id for id in self.world.children if id != running_id]:
            self.world.children.pop(id)
        closed = 0
        for id, runs in self.world.runs.items():
            for number, status in enumerate(runs):
                if status == "RUNNING" and (id not in self.world.children or number < len(runs) - 1):
                    runs[number] = "KILLED"
                    closed += 1
        return closed

    def _trouble(self, share: float) -> None:
        self.world.stall()
        if not self.world.is_calm and self.world.rng.random() < share:
            raise OSError("no space left on device")


@contextmanager
def database() -> Iterator[sa.Connection]:
    """Open SQLite in memory with all tables; nothing is logged."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    metadata.create_all(engine)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    gc.freeze()  # collections skip what was imported
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        gc.unfreeze()
        structlog.reset_defaults()
        engine.dispose()


def driver(connection: sa.Connection) -> sqlite3.Connection:
    """Return the SQLite connection itself: observers need no layer above it."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def simulate(seed: int, connection: sa.Connection, params: Params, announce: Callable[[str], None] = lambda _line: None) -> World:
    """Run one seed on an emptied database; raises `BrokenPromiseError`, or an error that the code under test lets through."""
    driver(connection).executescript(";".join(f"DELETE FROM {table.name}" for table in TABLES))  # noqa: S608 (our own names)
    with connection.begin():
        connection.execute(routing.insert().values(id=1, revision=0, challenger_weight=0, shadow_share=0, salt=""))
        add_release(connection, 1, "first")
    world = World(seed, connection, params.retrain, params.release, announce)
    world.run_all()
    return world


def quick(params: Params) -> Params:
    """Return params for a simulation."""
    retrain, release = params.retrain.model_copy(update=QUICK), params.release.model_copy(update=QUICK_RELEASE)
    return params.model_copy(update={"retrain": retrain, "release": release})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--tell", action="store_true")
    args = parser.parse_args()
    settings, broken, begun = quick(load_params()), 0, time.monotonic()
    seeds = range(args.seeds) if args.seed is None else [args.seed]
    with database() as connection:
        for seed in seeds:
            try:
                simulate(seed, connection, settings, print if args.tell else lambda _line: None)
            except (Exception, BrokenPromiseError) as error:
                broken += 1
                print(f"seed {seed}: {type(error).__name__}: {error}")
                if args.seed is not None:
                    raise
    print(f"{len(seeds)} seeds, {broken} broke a promise, {time.monotonic() - begun:.1f} s")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
