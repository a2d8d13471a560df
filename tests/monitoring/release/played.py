"""What serves and what is seen, played: the release table and the routing are real, Triton and the log are not."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import sqlalchemy as sa

from monitoring.release.evidence import ReleaseEvidence
from monitoring.release.looks import Reading
from monitoring.release.runs import ReleaseExample, ReleaseRun
from monitoring.release.verdicts.guardrails import ArmLook, Look, first_guardrails, update_guardrails
from monitoring.release.verdicts.shadow import update_shadow
from pipeline.params import ReleaseSettings
from serving.arm_counts import ArmTotals
from serving.release.release_table import CheckLease, Record, promote, take_back
from serving.release.routing import set_routing

EXAMPLE = ReleaseExample("p1", "where is it", "track", "refund", None)
Begin = Callable[[], AbstractContextManager[sa.Connection]]


class PlayedServing:
    """Moves release table and routing. `before` is called with each move, and may raise."""

    def __init__(self, begin: Begin, before: Callable[[str], None] = lambda _move: None) -> None:
        self._begin, self._before = begin, before
        self.moves: list[str] = []

    def route(self, weight: float, shadow_share: float, check_lease: CheckLease) -> None:
        self._move(f"route {weight:g} {shadow_share:g}")
        with self._begin() as connection:
            check_lease(connection)
            set_routing(connection, challenger_weight=weight, shadow_share=shadow_share)

    def promote(self, version: int, check_lease: CheckLease, record: Record) -> bool:
        self._move(f"promote {version}")
        with self._begin() as connection:
            check_lease(connection)
            promote(connection, version)
            record(connection)
        return True

    def roll_back(self, version: int, check_lease: CheckLease, record: Record) -> None:
        self._move(f"roll back {version}")
        with self._begin() as connection:
            check_lease(connection)
            take_back(connection, version)
            record(connection)

    def _move(self, name: str) -> None:
        self._before(name)
        self.moves.append(name)


class Seen:
    """What one look sees: outcomes of pairs, and answers of both arms."""

    def __init__(self, outcomes: Iterable[int] = (), answered: int = 0, *, failed: int = 0) -> None:
        self.outcomes, self.answered, self.failed = list(outcomes), answered, failed


class PlayedWatch:
    """Sees what a test plays: `next_look` returns it, or raises."""

    def __init__(self, settings: ReleaseSettings, next_look: Callable[[ReleaseRun], Seen]) -> None:
        self._settings, self._next_look = settings, next_look

    def look(self, _reading: Reading, run: ReleaseRun, evidence: ReleaseEvidence) -> ReleaseEvidence:
        seen = self._next_look(run)
        shadow = update_shadow(evidence.shadow, seen.outcomes, self._settings)
        if run.stage == "shadow":
            return evidence._replace(shadow=shadow)
        if evidence.guardrails is None:
            return evidence._replace(shadow=shadow, guardrails=first_guardrails(shadow, self._settings), canary_began_at=0.0)
        look = Look(ArmLook(seen.answered - seen.failed, seen.failed), ArmLook(seen.answered))
        return evidence._replace(
            shadow=shadow,
            guardrails=update_guardrails(evidence.guardrails, look, self._settings),
            challenger=_more(evidence.challenger, seen.answered - seen.failed, seen.failed),
            baseline=_more(evidence.baseline, seen.answered, 0),
        )

    def examples(self) -> list[ReleaseExample]:
        return [EXAMPLE]


def _more(totals: ArmTotals, answered: int, failed: int) -> ArmTotals:
    return ArmTotals(totals.answered + answered, totals.failed + failed)
