"""The retrain controller: sees what was heard, decides, and works on the one retrain that runs. Nothing is known but the journal.

Every look begins from what is written down, so a controller that is killed anywhere is replaced by another: decisions stand, a
lease runs out, and the step that was at work is done again or found done. Whatever fails, the champion serves on.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from monitoring.retrain.clock import Moment, elapsed_s
from monitoring.retrain.decide import Decision, Episode, Past, Situation, decide, spent_s
from monitoring.retrain.journal import SEEN_AT_ONCE, Ending, Held, Job, Journal, StaleError, holds
from monitoring.retrain.metrics import ControllerMetrics
from monitoring.retrain.steps import Done, Work
from pipeline.errors import EvergreenError, InputError, RefusedError
from pipeline.params import Retrain

log = structlog.get_logger()
Read = Callable[[sa.Connection, list[Past]], Situation]
Keeping = Callable[[Held], AbstractContextManager[None]]


class StopError(Exception):
    """The controller is to end: what it has in hand is handed back."""


class Ended(NamedTuple):
    """How a retrain ended."""

    job: Job
    state: Ending
    failure: str | None


class Controller:
    """One of possibly several. `keeping` renews the lease meanwhile, `is_ending` says whether the process is to end."""

    def __init__(
        self,
        journal: Journal,
        work: Work,
        read: Read,
        settings: Retrain,
        *,
        clock: Callable[[], Moment],
        owner: str,
        metrics: ControllerMetrics,
        keeping: Keeping,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._journal, self._work, self._read, self._settings = journal, work, read, settings
        self._clock, self._owner, self._metrics = clock, owner, metrics
        self._keeping, self._is_ending = keeping, is_ending
        self._swept: Moment | None = None

    def look(self) -> list[Decision]:
        """See what was heard and decide; returns the decisions that changed."""
        now = self._clock()
        while self._journal.see(now) == SEEN_AT_ONCE:
            pass
        waiting: Counter[str] = Counter()
        known: list[Past] = []

        def think(connection: sa.Connection, episodes: list[Episode], past: list[Past]) -> list[Decision]:
            known[:] = past
            made = decide(episodes, self._read(connection, past), self._settings, now) if episodes else []
            waiting.update(one.reason for one in made if one.outcome == "waiting")
            return made

        changed = self._journal.decide(think, now)
        for one in changed:
            self._metrics.decided(one.outcome, one.reason)
            log.info("decided", decision=one.episode, verdict=one.outcome, reason=one.reason, retrain=one.retrain, **one.facts)
        is_running = any(past.state == "running" for past in known) or any(one.outcome == "started" for one in changed)
        self._metrics.cycle_done(
            now.wall, waiting=waiting, is_running=is_running, spent_ratio=spent_s(known, now) / self._settings.budget_s
        )
        return changed

    def advance(self) -> Ended | None:
        """Take up the retrain that is due, if nobody else has it, and work on it until it ends or is put off."""
        self._sweep()
        claimed = self._journal.claim(self._owner, self._clock(), lease_s=self._settings.lease_s)
        if claimed is None:
            return None
        held, job = claimed
        log.info("retrain taken up", retrain=held.id, step=job.step, fence=held.fence)
        ended = None
        try:
            while (ended := self._step(held, job)) is None:
                job = self._journal.job(held)
        except StaleError as error:
            self._metrics.failed("lost")
            log.warning("retrain lost to another owner", retrain=held.id, error=str(error))
        except _PutOffError:
            pass
        if ended:
            self._metrics.ended(ended.state, ended.job.step)
            log.info("retrain ended", retrain=held.id, state=ended.state, step=ended.job.step, failure=ended.failure)
            self._tidy(ended)
        return ended

    def _step(self, held: Held, job: Job) -> Ended | None:
        """One step, and what comes of it; how the retrain ended, where it did."""
        begun = self._clock()
        if job.attempt >= self._settings.attempts:
            return self._give_up(held, job, f"{job.attempt} attempts ended without a word")
        job = job._replace(attempt=self._journal.begin_step(held, begun))
        try:
            with self._keeping(held):
                done = self._do(held, job)
        except (StaleError, _PutOffError):
            raise
        except StopError:
            self._journal.put_off(held, self._clock(), "the controller ended", pause_s=0.0, counts=False)
            raise _PutOffError from None
        except RefusedError as error:
            return self._end(held, job, "refused", str(error))
        except Exception as error:
            return self._failed(held, job, error)
        self._metrics.step_done(job.step, elapsed_s(begun, self._clock()))
        if isinstance(done, Ended):
            return done
        if job.step == "swap":
            return self._end(held, job, "done", None, done.detail)
        self._journal.end_step(held, self._clock(), done.detail, **done.learnt)
        return None

    def _do(self, held: Held, job: Job) -> Done | Ended:
        def check_lease(connection: sa.Connection) -> None:
            holds(connection, held)

        if job.step == "collect":
            return self._work.collect(job)
        if job.step == "reproduce":
            return self._work.reproduce(job, lambda progress: self._beat(held, progress))
        if job.step == "publish":
            return self._work.publish(job, check_lease)
        if job.step == "swap":
            return self._work.swap(job, check_lease)
        verdict = self._work.gate(job)
        if verdict.passed:
            return Done("; ".join(verdict.reasons), {"verdict": verdict.as_json()})
        return self._end(held, job, "refused", "; ".join(verdict.reasons), verdict=verdict.as_json())

    def _beat(self, held: Held, progress: str) -> None:
        if self._is_ending():
            raise StopError
        self._journal.renew(held, self._clock(), lease_s=self._settings.lease_s, progress=progress)

    def _failed(self, held: Held, job: Job, error: Exception) -> Ended | None:
        """Another attempt after a pause, unless it was the last, or nothing will be different then."""
        words = str(error) if isinstance(error, EvergreenError) else f"{type(error).__name__}: {error}"
        self._metrics.step_failed(job.step)
        is_known = isinstance(error, EvergreenError | OSError)
        log.warning(
            "a step failed", retrain=held.id, step=job.step, attempt=job.attempt, error=words[:1000], exc_info=not is_known
        )
        if job.attempt >= self._settings.attempts or isinstance(error, InputError):
            return self._give_up(held, job, words)
        self._journal.put_off(held, self._clock(), words, pause_s=self._settings.retry_s)
        raise _PutOffError

    def _give_up(self, held: Held, job: Job, words: str) -> Ended:
        """Failed, unless the version is champion by now: an attempt at the swap may have died, or failed, after it had moved."""
        if job.step == "swap" and self._work.is_champion(job):
            return self._end(held, job, "done", None, f"it is champion, though: {words}")
        return self._end(held, job, "failed", f"step {job.step}: {words}")

    def _end(self, held: Held, job: Job, state: Ending, failure: str | None, detail: str = "", **learnt: str) -> Ended:
        self._journal.end(held, self._clock(), state, failure, detail, **learnt)
        return Ended(job, state, failure)

    def _tidy(self, ended: Ended) -> None:
        """What is left of a failed retrain is kept, for whoever wants to look."""
        if ended.state == "failed":
            return
        try:
            self._work.clean(ended.job)
        except Exception as error:
            self._metrics.failed("tidying")
            log.warning("not tidied", retrain=ended.job.id, error=str(error)[:300])

    def _sweep(self) -> None:
        """Once a lease: end what is left of those who died. It stops nothing when it fails."""
        now = self._clock()
        if self._swept is not None and elapsed_s(self._swept, now) < self._settings.lease_s:
            return
        live = self._journal.live()
        self._swept = now
        try:
            self._metrics.orphans_closed(self._work.sweep(live.id if live else None))
        except Exception as error:
            self._metrics.failed("sweeping")
            log.warning("what is left of others was not swept", error=str(error)[:300])


class _PutOffError(Exception):
    """The retrain was handed back."""


def lease_keeper(journal: Journal, clock: Callable[[], Moment], lease_s: float) -> Keeping:
    """Renews a lease in a thread while work is done that cannot do it itself; one that is lost is noticed by the next write."""

    @contextmanager
    def keeping(held: Held) -> Iterator[None]:
        is_over = threading.Event()

        def renew() -> None:
            while not is_over.wait(lease_s / 4):
                try:
                    journal.renew(held, clock(), lease_s=lease_s)
                except StaleError:
                    return
                except sa.exc.SQLAlchemyError as error:
                    log.warning("a lease could not be renewed", retrain=held.id, error=str(error)[:300])

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    return keeping
