"""The retrain controller: records new alerts, decides on them, and works on the running retrain. All state is in the journal.

Every cycle starts from the journal, so another controller can replace one that is killed: decisions stand, its lease expires,
and the interrupted step is repeated or found done. Whatever fails, the champion keeps serving.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from monitoring.clock import Moment, elapsed_s
from monitoring.release.gradual import ReleaseEnd
from monitoring.release.runs import ReleaseOutcome
from monitoring.retrain.decide import Decision, Episode, Inputs, PastRetrain, decide, spent_s
from monitoring.retrain.journal import (
    BATCH_ALERTS,
    FinalState,
    Journal,
    Lease,
    RetrainJob,
    StaleLeaseError,
    require_lease,
)
from monitoring.retrain.metrics import ControllerMetrics
from monitoring.retrain.steps import StepResult, Steps
from monitoring.retrain_activity import RELEASE_STEPS
from pipeline.errors import EvergreenError, InputError, RefusedError
from pipeline.params import Retrain
from serving.release.release_table import CheckLease

log = structlog.get_logger()
ReadInputs = Callable[[sa.Connection, list[PastRetrain]], Inputs]
RenewLease = Callable[[Lease], AbstractContextManager[None]]


class ShutdownError(Exception):
    """The controller is shutting down and gives its retrain back."""


class EndedRetrain(NamedTuple):
    """The end of a retrain."""

    job: RetrainJob
    state: FinalState
    failure: str | None


class Controller:
    """One of possibly several controllers. `renewing` renews the lease during a step, `is_ending` asks for a shutdown.

    One that `is_on_request` works only on retrains that a person has asked for.
    """

    def __init__(
        self,
        journal: Journal,
        steps: Steps,
        read_inputs: ReadInputs,
        settings: Retrain,
        *,
        clock: Callable[[], Moment],
        owner: str,
        metrics: ControllerMetrics,
        renewing: RenewLease,
        is_ending: Callable[[], bool] = lambda: False,
        is_on_request: bool = False,
    ) -> None:
        self._journal, self._steps, self._read_inputs, self._settings = journal, steps, read_inputs, settings
        self._clock, self._owner, self._metrics = clock, owner, metrics
        self._renewing, self._is_ending, self._is_on_request = renewing, is_ending, is_on_request
        self._swept: Moment | None = None

    def decide(self) -> list[Decision]:
        """Record new alerts and decide on waiting ones; return the decisions that changed."""
        now = self._clock()
        while self._journal.record_episodes(now) == BATCH_ALERTS:
            pass
        waiting: Counter[str] = Counter()
        history: list[PastRetrain] = []

        def make_decisions(connection: sa.Connection, episodes: list[Episode], past: list[PastRetrain]) -> list[Decision]:
            history[:] = past
            decisions = decide(episodes, self._read_inputs(connection, past), self._settings, now) if episodes else []
            waiting.update(decision.reason for decision in decisions if decision.outcome == "waiting")
            return decisions

        changed = self._journal.decide(make_decisions, now)
        for decision in changed:
            self._metrics.decided(decision.outcome, decision.reason)
            log.info(
                "decided",
                decision=decision.episode_id,
                verdict=decision.outcome,
                reason=decision.reason,
                retrain=decision.retrain_id,
                **decision.facts,
            )
        is_running = any(past.state == "running" for past in history) or any(made.outcome == "started" for made in changed)
        spent_ratio = spent_s(history, now) / self._settings.budget_s
        self._metrics.cycle_done(now.wall, waiting=waiting, is_running=is_running, spent_ratio=spent_ratio)
        return changed

    def advance(self) -> EndedRetrain | None:
        """Lease the due retrain, if no other controller has it, and work on it until it ends or is postponed."""
        running = self._journal.running_job()
        self._sweep(running)
        if running is None or (self._is_on_request and not self._journal.is_asked(running.id)):
            return None
        claimed = self._journal.claim(self._owner, self._clock(), lease_s=self._settings.lease_s)
        if claimed is None:
            return None
        lease, job = claimed
        self._metrics.claimed(job.version_in)
        log.info("retrain claimed", retrain=lease.id, step=job.step, fence=lease.fence)
        ended = None
        try:
            while (ended := self._run_step(lease, job)) is None:
                job = self._journal.job(lease)
        except StaleLeaseError as error:
            self._metrics.failed("lost")
            log.warning("lost the lease: another controller has the retrain, or it was cancelled", error=str(error))
            self._swept = None
            self._sweep(self._journal.running_job())
        except _PostponedError:
            pass
        if ended:
            self._metrics.ended(ended.job.version_in, ended.state, ended.job.step)
            log.info("retrain ended", retrain=lease.id, state=ended.state, step=ended.job.step, failure=ended.failure)
            self._clean(ended)
        return ended

    def _run_step(self, lease: Lease, job: RetrainJob) -> EndedRetrain | None:
        """Run one step and store its result; return the end of the retrain, if this step ends it."""
        begun = self._clock()
        if job.attempt >= self._settings.attempts:
            return self._give_up(lease, job, f"{job.attempt} attempts ended without a result")
        job = job._replace(attempt=self._journal.begin_step(lease, begun))
        try:
            with self._renewing(lease):
                result = self._do(lease, job)
        except (StaleLeaseError, _PostponedError):
            raise
        except ShutdownError:
            self._steps.stop(job)
            self._journal.postpone(lease, self._clock(), "the controller was stopped", pause_s=0.0, counts=False)
            raise _PostponedError from None
        except RefusedError as error:
            self._abandon(lease, job, "refused", str(error))
            return self._finish(lease, job, "refused", str(error))
        except Exception as error:
            return self._handle_failure(lease, job, error)
        self._metrics.step_done(job.step, elapsed_s(begun, self._clock()))
        if isinstance(result, EndedRetrain):
            return result
        if job.step == "promote":
            return self._finish(lease, job, "done", None, result.detail)
        self._journal.end_step(lease, self._clock(), result.detail, **result.columns)
        return None

    def _do(self, lease: Lease, job: RetrainJob) -> StepResult | EndedRetrain:
        check_lease = _lease_check(lease)
        if job.step in RELEASE_STEPS:
            return self._release(lease, job, check_lease)
        if job.step == "collect":
            return self._steps.collect(job)
        if job.step == "reproduce":
            return self._steps.reproduce(job, lambda progress: self._heartbeat(lease, progress))
        if job.step == "publish":
            return self._steps.publish(job, check_lease)
        verdict = self._steps.gate(job)
        if verdict.passed:
            return StepResult("; ".join(verdict.reasons), {"verdict": verdict.as_json()})
        return self._finish(lease, job, "refused", "; ".join(verdict.reasons), verdict=verdict.as_json())

    def _release(self, lease: Lease, job: RetrainJob, check_lease: CheckLease) -> StepResult | EndedRetrain:
        """Work on a step of the release, which may wait for days: whenever it looks, earlier attempts are forgotten."""

        def heartbeat(progress: str) -> None:
            self._heartbeat(lease, progress, is_first_attempt=True)

        if job.step == "promote":
            result = self._steps.promote(job, check_lease)
        else:
            step = self._steps.shadow if job.step == "shadow" else self._steps.canary
            result = step(job, check_lease, heartbeat)
        return self._finish(lease, job, result.outcome, result.reason) if isinstance(result, ReleaseEnd) else result

    def _heartbeat(self, lease: Lease, progress: str, *, is_first_attempt: bool = False) -> None:
        if self._is_ending():
            raise ShutdownError
        settings = self._settings
        self._journal.renew(lease, self._clock(), lease_s=settings.lease_s, progress=progress, is_first_attempt=is_first_attempt)

    def _handle_failure(self, lease: Lease, job: RetrainJob, error: Exception) -> EndedRetrain | None:
        """Postpone the retrain for another attempt, unless this was the last one or a retry cannot help."""
        message = str(error) if isinstance(error, EvergreenError) else f"{type(error).__name__}: {error}"
        self._metrics.step_failed(job.step)
        is_expected = isinstance(error, EvergreenError | OSError)
        log.warning(
            "a step failed", retrain=lease.id, step=job.step, attempt=job.attempt, error=message[:1000], exc_info=not is_expected
        )
        if self._journal.job(lease).attempt >= self._settings.attempts or isinstance(error, InputError):
            return self._give_up(lease, job, message)
        self._journal.postpone(lease, self._clock(), message, pause_s=self._settings.retry_s)
        raise _PostponedError

    def _give_up(self, lease: Lease, job: RetrainJob, message: str) -> EndedRetrain:
        """Fail the retrain, unless the version is champion: an attempt may have failed after the promotion."""
        if job.step == "promote" and self._steps.is_champion(job):
            return self._finish(lease, job, "done", None, f"the version is champion although the step failed: {message}")
        self._abandon(lease, job, "aborted", f"step {job.step} failed: {message}")
        return self._finish(lease, job, "failed", f"step {job.step}: {message}")

    def _abandon(self, lease: Lease, job: RetrainJob, outcome: ReleaseOutcome, why: str) -> None:
        """End the release of a retrain that cannot go on; what is out of reach for that is tried again after a pause."""
        if job.step not in RELEASE_STEPS:
            return
        try:
            self._steps.abandon(job, _lease_check(lease), outcome, why)
        except StaleLeaseError:
            raise
        except Exception as error:
            log.warning("could not take a release back", retrain=lease.id, error=str(error)[:500])
            self._journal.postpone(lease, self._clock(), f"{why}; not taken back: {error}", pause_s=self._settings.retry_s)
            raise _PostponedError from None

    def _finish(
        self, lease: Lease, job: RetrainJob, state: FinalState, failure: str | None, detail: str = "", **columns: str
    ) -> EndedRetrain:
        self._journal.finish(lease, self._clock(), state, failure, detail, **columns)
        return EndedRetrain(job, state, failure)

    def _clean(self, ended: EndedRetrain) -> None:
        """Clean up after a retrain; the files of a failed one stay for inspection."""
        if ended.state == "failed":
            return
        try:
            self._steps.clean(ended.job)
        except Exception as error:
            self._metrics.failed("tidying")
            log.warning("could not clean up after a retrain", retrain=ended.job.id, error=str(error)[:300])

    def _sweep(self, running: RetrainJob | None) -> None:
        """Once per lease period, end what dead controllers left behind. A failure here stops nothing."""
        now = self._clock()
        if self._swept is not None and elapsed_s(self._swept, now) < self._settings.lease_s:
            return
        self._swept = now
        try:
            self._metrics.orphans_closed(self._steps.sweep(running.id if running else None))
        except Exception as error:
            self._metrics.failed("sweeping")
            log.warning("could not end what dead controllers left behind", error=str(error)[:300])


def _lease_check(lease: Lease) -> CheckLease:
    def check_lease(connection: sa.Connection) -> None:
        require_lease(connection, lease)

    return check_lease


class _PostponedError(Exception):
    """The retrain was given back."""


def lease_renewer(journal: Journal, clock: Callable[[], Moment], lease_s: float) -> RenewLease:
    """Return a context manager that renews a lease from a thread; the next write notices a lost lease."""

    @contextmanager
    def renewing(lease: Lease) -> Iterator[None]:
        is_over = threading.Event()

        def renew() -> None:
            while not is_over.wait(lease_s / 4):
                try:
                    journal.renew(lease, clock(), lease_s=lease_s)
                except StaleLeaseError:
                    return
                except sa.exc.SQLAlchemyError as error:
                    log.warning("could not renew a lease", retrain=lease.id, error=str(error)[:300])

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    return renewing
