"""What a release sees: the gateways' counts, both versions' answers in the prediction log, people's labels. Moves nothing."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from monitoring.release.asked_texts import ReleaseLabels, read_release_labels, waiting_texts
from monitoring.release.copied_texts import CopiedText, CopiedTexts
from monitoring.release.evidence import ReleaseEvidence
from monitoring.release.judged_answers import JudgedAnswers, read_judged
from monitoring.release.pairs import new_outcomes, outcome_of
from monitoring.release.runs import ReleaseExample, ReleaseRun
from monitoring.release.verdicts.guardrails import ArmLook, Look, first_guardrails, update_guardrails
from monitoring.release.verdicts.shadow import LOST, PairedEvidence, update_shadow
from pipeline.params import Params
from serving.arm_counts import ArmTotals, read_counts
from serving.prediction_log.writer import log_url
from serving.release.manifest import model_name
from serving.triton.model_memory import model_memory

MAX_EXAMPLE_CHARS = 500
Reading = Callable[[], AbstractContextManager[sa.Connection]]  # opens a transaction that only reads


class Watch(Protocol):
    """Watches one release."""

    def look(self, reading: Reading, run: ReleaseRun, evidence: ReleaseEvidence) -> ReleaseEvidence:
        """Return the evidence with what is new."""

    def examples(self) -> list[ReleaseExample]:
        """Return texts that show how the versions differ."""


class LogWatch:
    """Watches one release through the prediction log and the state database.

    A new one reads the log from the release's beginning and judges all pairs again, so that nothing hangs on who watched before.
    """

    def __init__(self, params: Params, home: Path, run: ReleaseRun, clock: Callable[[], float] = time.time) -> None:
        self._params, self._home, self._clock = params, home, clock
        self._url = log_url(params.log, home)
        self._texts = CopiedTexts(
            self._url, champion=run.champion, challenger=run.version, since=run.began_at, settings=params.monitor
        )
        self._shadow, self._position, self._differing, self._counted = PairedEvidence(), 0, 0, 0
        self._copied: list[CopiedText] = []
        self._said = ReleaseLabels({}, {}, frozenset())

    def look(self, reading: Reading, run: ReleaseRun, evidence: ReleaseEvidence) -> ReleaseEvidence:
        """Return the evidence with what is new; raises what the log's store and the database raise."""
        self._copied = self._texts.read()
        with reading() as connection:
            self._said = read_release_labels(connection, run.began_at)
            seen = self._look_at_pairs(evidence)
            seen = self._look_at_arms(connection, run, seen) if run.stage == "canary" else seen
        return seen._replace(compared=self._counted, differing=self._differing)

    def _look_at_pairs(self, evidence: ReleaseEvidence) -> ReleaseEvidence:
        settings = self._params.release
        new = new_outcomes(self._copied, self._position, self._said)
        self._shadow, self._position = update_shadow(self._shadow, new.outcomes, settings), self._position + new.texts
        self._differing += sum(text.differs for text in self._copied[self._counted :])
        self._counted = len(self._copied)
        waiting = len(waiting_texts(self._copied, self._said, settings.labels))
        return evidence._replace(shadow=self._shadow, waiting=waiting)

    def examples(self) -> list[ReleaseExample]:
        """Return the newest differing texts, first those on which people say that only the champion is right."""
        differing = [text for text in reversed(self._copied) if text.differs and text.text]
        differing.sort(key=lambda text: not self._is_lost(text))  # stable: the newest stay first
        return [_example(text, self._said) for text in differing[: self._params.release.examples]]

    def _is_lost(self, text: CopiedText) -> bool:
        label = self._said.labels.get(text.prediction_id)
        return label is not None and outcome_of(text, label) == LOST

    def _look_at_arms(self, connection: sa.Connection, run: ReleaseRun, seen: ReleaseEvidence) -> ReleaseEvidence:
        """Update the guardrails; the first look of a canary only notes where the counts begin."""
        settings, counts = self._params.release, read_counts(connection, run.salt)
        challenger, baseline = counts["challenger"], counts["baseline"]
        if seen.guardrails is None or seen.canary_began_at is None:
            return seen._replace(
                guardrails=first_guardrails(seen.shadow, settings),
                canary_began_at=self._clock(),
                rung_answered=(challenger.answered, baseline.answered),
                challenger=challenger,
                baseline=baseline,
            )
        judged = self._read_judged(connection, run, seen, seen.canary_began_at)
        memory = model_memory(self._home, model_name(run.version))
        first_memory = memory if seen.guardrails.first_memory is None else seen.guardrails.first_memory
        look = Look(
            _arm_look(challenger, seen.challenger),
            _arm_look(baseline, seen.baseline),
            max(0, self._counted - seen.compared),
            max(0, self._differing - seen.differing),
            judged.challenger,
            judged.champion,
            memory,
            first_memory,
        )
        guardrails = update_guardrails(seen.guardrails, look, settings)
        return seen._replace(guardrails=guardrails, feedback_upto=judged.upto, challenger=challenger, baseline=baseline)

    def _read_judged(self, connection: sa.Connection, run: ReleaseRun, seen: ReleaseEvidence, since: float) -> JudgedAnswers:
        return read_judged(
            connection,
            self._url,
            champion=run.champion,
            challenger=run.version,
            since=since,
            upto=seen.feedback_upto,
            now=self._clock(),
        )


def _arm_look(totals: ArmTotals, before: ArmTotals) -> ArmLook:
    new = totals.since(before)
    return ArmLook(new.answered, new.failed, new.broken, new.latencies)


def _example(text: CopiedText, said: ReleaseLabels) -> ReleaseExample:
    shown = (text.text or "")[:MAX_EXAMPLE_CHARS]
    return ReleaseExample(text.prediction_id, shown, text.label, text.other_label, said.labels.get(text.prediction_id))
