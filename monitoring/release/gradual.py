"""A gradual release at work: look, decide, move, wait. The row in `release_runs` is all its state, so anybody can continue it.

Each turn first makes sure that nobody has taken the release's place, and ends with the shares that the row asks for. A move
writes its row first and the routing second, except a promotion and a roll-back, which are one transaction. What cannot be reached
is tried again at the next look: without data nothing moves.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import sqlalchemy as sa
import structlog

from monitoring.release.evidence import ReleaseEvidence, describe_stage, standing_of
from monitoring.release.looks import Watch
from monitoring.release.moves import Serving
from monitoring.release.reasons import describe_refusal
from monitoring.release.runs import ReleaseOutcome, ReleaseRun, Stage, begin_run, end_run, first_run, read_run, write_run
from monitoring.release.verdicts.guardrails import Guardrail, broken_guardrail
from monitoring.release.verdicts.ladder import Move, decide_move
from monitoring.release.verdicts.shadow import judge_shadow
from pipeline.errors import EvergreenError, RefusedError
from pipeline.params import ReleaseSettings
from serving.release.release_table import CheckLease, make_challenger, roles
from serving.release.routing import Routes, read_routes

Begin = Callable[[], AbstractContextManager[sa.Connection]]
Heartbeat = Callable[[str], None]  # gets the progress; raises when the step must stop
EndOutcome = Literal["refused", "rolled_back", "aborted"]
OUTCOMES: dict[Move, ReleaseOutcome] = {"refuse": "refused", "roll_back": "rolled_back", "abort": "aborted"}
UNREACHABLE = (EvergreenError, OSError, sa.exc.DBAPIError)  # a look or a move that fails with these is repeated
log = structlog.get_logger()


class ReleaseEnd(NamedTuple):
    """The end of a release that makes no champion."""

    outcome: EndOutcome
    reason: str


class ReleaseAccess(NamedTuple):
    """How a release reaches the state database: transactions that write, and that only read; and its right to write."""

    begin: Begin
    reading: Begin
    check_lease: CheckLease  # raises when somebody else has the retrain


class ReleaseOvertakenError(EvergreenError):
    """Another release has taken the place."""


class GradualRelease:
    """Works on the release that a retrain ends with.

    `watching` begins to watch a run, `clock` returns seconds of the epoch, and `wait` waits for so many seconds.
    """

    def __init__(
        self,
        access: ReleaseAccess,
        serving: Serving,
        watching: Callable[[ReleaseRun], Watch],
        settings: ReleaseSettings,
        *,
        clock: Callable[[], float],
        wait: Callable[[float], None],
    ) -> None:
        self._access, self._serving, self._watching, self._settings = access, serving, watching, settings
        self._clock, self._wait = clock, wait
        self._watch: Watch | None = None

    def begin(self, retrain_id: int, version: int) -> ReleaseRun | None:
        """Return the retrain's release, begun if it was not; None where the version is champion already, and none was begun.

        The version becomes challenger in the transaction that begins its release.
        """
        with self._access.begin() as connection:
            self._access.check_lease(connection)
            run = read_run(connection, retrain_id)
            champion = roles(connection).get("champion")
            if run is not None or champion == version:
                return run
            if champion is None:
                raise RefusedError(f"version {version}", "no version is champion", "publish one: make repro")
            make_challenger(connection, version)
            new = first_run(retrain_id, version, champion, read_routes(connection).salt, self._clock())
            return begin_run(connection, new, self._access.check_lease)

    def read(self, retrain_id: int) -> ReleaseRun | None:
        """Return the retrain's release; None without one."""
        with self._access.reading() as connection:
            return read_run(connection, retrain_id)

    def clean_up(self, run: ReleaseRun) -> None:
        """Complete a roll-back whose owner died after its transaction: registry and Triton follow the release table."""

        def check(connection: sa.Connection) -> None:
            self._access.check_lease(connection)
            if run.version in roles(connection).values():
                raise ReleaseOvertakenError(f"version {run.version}", "another release has taken it up", "nothing is to be done")

        try:
            self._serving.roll_back(run.version, check, lambda _connection: None)
        except UNREACHABLE as error:
            log.warning("a roll-back was not completed", retrain=run.retrain_id, error=str(error)[:500])

    def work(self, run: ReleaseRun, stage: Stage, heartbeat: Heartbeat) -> ReleaseRun:
        """Work until this stage is over; return the run as it is then."""
        while run.stage == stage:
            run = self._guarded_turn(run)
            if run.stage == stage:
                heartbeat(describe_stage(run, self._settings))
                self._wait(self._settings.poll_s)
        return run

    def promote(self, run: ReleaseRun) -> tuple[ReleaseRun, bool]:
        """Make the version champion, unless a person ends it first; return the run, and whether a Triton serves the version."""
        with self._access.reading() as connection:
            is_champion = roles(connection).get("champion") == run.version
        if run.wish == "abort" and run.outcome is None and not is_champion:
            return self.take_back(run, "aborted", "a person has ended it"), False
        reason = f"the shadow's verdict, then {len(self._settings.shares)} steps of the canary without a broken guardrail"
        is_served = self._serving.promote(
            run.version, self._check_place(run), lambda connection: self._end(connection, run, "promoted", reason)
        )
        return self._read(run), is_served

    def take_back(self, run: ReleaseRun, outcome: ReleaseOutcome, reason: str, broken: Guardrail | None = None) -> ReleaseRun:
        """Give everything to the champion and end the run, in one transaction; a run that has ended stays."""
        if run.outcome is not None:
            return run
        examples = self._watch.examples() if self._watch else []
        log.warning("a release ends", retrain=run.retrain_id, version=run.version, outcome=outcome, broken=broken, reason=reason)

        def record(connection: sa.Connection) -> None:
            at = self._clock()
            end_run(
                connection, run.retrain_id, self._access.check_lease,
                outcome=outcome, reason=reason, at=at, broken=broken, examples=examples,
            )  # fmt: skip

        self._serving.roll_back(run.version, self._check_place(run), record)
        return self._read(run)

    def _guarded_turn(self, run: ReleaseRun) -> ReleaseRun:
        """Look and move once; what is out of reach is logged, and the run stays as it is."""
        try:
            try:
                return self._turn(run)
            except RefusedError as error:  # the challenger does not load, or answers otherwise than offline
                return self.take_back(run, "refused" if run.stage == "shadow" else "rolled_back", str(error))
        except UNREACHABLE as error:
            log.warning("a release could not look or move; it tries again", retrain=run.retrain_id, error=str(error)[:500])
            return self._read_if_possible(run)

    def _turn(self, run: ReleaseRun) -> ReleaseRun:
        with self._access.reading() as connection:
            routes = read_routes(connection)
        if routes.champion == run.version:  # a person has made it champion
            return self._write(run, stage="promote")
        if not has_place(run, routes):
            return self._overtaken(run, routes)
        run, evidence = self._look(run)
        broken = broken_guardrail(evidence.guardrails, self._settings) if evidence.guardrails else None
        verdict = judge_shadow(evidence.shadow, self._settings)
        move = decide_move(standing_of(run, evidence), verdict, broken, self._settings, wish=run.wish)
        run = self._move(run, evidence, move, broken)
        if run.stage in ("shadow", "canary"):
            self._ensure_routed(run)
        return run

    def _look(self, run: ReleaseRun) -> tuple[ReleaseRun, ReleaseEvidence]:
        """Look, store what was seen, and return the run with the newest wish."""
        if self._watch is None:
            self._watch = self._watching(run)
        evidence = self._watch.look(self._access.reading, run, ReleaseEvidence.from_json(run.evidence))
        return self._write(run, evidence=evidence.to_json(), looked_at=self._clock()), evidence

    def _move(self, run: ReleaseRun, evidence: ReleaseEvidence, move: Move, broken: Guardrail | None) -> ReleaseRun:
        now = self._clock()
        if move == "wait":
            return run
        if move == "start_canary":
            return self._write(run, stage="canary", rung=0, stage_began_at=now)
        if move == "step_up":
            answered = evidence.challenger.answered, evidence.baseline.answered
            stepped = evidence._replace(rung_answered=answered).to_json()
            return self._write(run, rung=run.rung + 1, stage_began_at=now, evidence=stepped)
        if move == "promote":
            return self._write(run, stage="promote", stage_began_at=now)
        reason = "a person has ended it" if move == "abort" else describe_refusal(evidence, broken, self._settings)
        return self.take_back(run, OUTCOMES[move], reason, broken)

    def _ensure_routed(self, run: ReleaseRun) -> None:
        """Set the shares that the run asks for, unless they are set: after a move, a restart, or somebody else's change."""
        shares = self._settings.shares
        weight = shares[min(run.rung, len(shares) - 1)] if run.stage == "canary" else 0.0
        with self._access.reading() as connection:
            routes = read_routes(connection)
        if (routes.challenger_weight, routes.shadow_share) != (weight, self._settings.shadow_share):
            self._serving.route(weight, self._settings.shadow_share, self._check_place(run))

    def _overtaken(self, run: ReleaseRun, routes: Routes) -> ReleaseRun:
        """End a run whose place another release has taken; the routing is not touched."""
        reason = f"another release took its place: champion {routes.champion}, challenger {routes.challenger or 'none'}"
        with self._access.begin() as connection:
            self._end(connection, run, "aborted", reason)
        return self._read(run)

    def _check_place(self, run: ReleaseRun) -> CheckLease:
        """Return a check, for every transaction that moves traffic, that the place is still this release's."""

        def check(connection: sa.Connection) -> None:
            self._access.check_lease(connection)
            routes = read_routes(connection)
            if routes.champion != run.version and not has_place(run, routes):
                raise ReleaseOvertakenError(
                    f"version {run.version}", "another release took its place", "see it: .venv/bin/evergreen status"
                )

        return check

    def _end(self, connection: sa.Connection, run: ReleaseRun, outcome: ReleaseOutcome, reason: str) -> None:
        end_run(connection, run.retrain_id, self._access.check_lease, outcome=outcome, reason=reason, at=self._clock())

    def _write(self, run: ReleaseRun, **columns: object) -> ReleaseRun:
        with self._access.begin() as connection:
            write_run(connection, run.retrain_id, self._access.check_lease, **columns)
            return read_run(connection, run.retrain_id) or run

    def _read_if_possible(self, run: ReleaseRun) -> ReleaseRun:
        """Return the run as it is stored: a part of the turn may have been done."""
        try:
            return self._read(run)
        except UNREACHABLE:
            return run

    def _read(self, run: ReleaseRun) -> ReleaseRun:
        return self.read(run.retrain_id) or run


def has_place(run: ReleaseRun, routes: Routes) -> bool:
    """Return whether champion, challenger and salt are those of this release."""
    return (routes.champion, routes.challenger, routes.salt) == (run.champion, run.version, run.salt)


def end_of(run: ReleaseRun) -> ReleaseEnd | None:
    """Return the end of a release that made no champion; None while it runs, and for a champion."""
    return None if run.outcome is None or run.outcome == "promoted" else ReleaseEnd(run.outcome, run.reason or "")
