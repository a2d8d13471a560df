"""The texts for which a running release waits: they come before the round, and the pages show neither version's answer.

People who know what a model said agree with it more often, so the labels would favour the version that was shown.
"""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import structlog

from monitoring.console.queue.action_log import StateAccess
from monitoring.console.queue.round_index import RoundIndex
from monitoring.flywheel.queue.round import LabelCandidate, Round
from monitoring.release.asked_texts import ReleaseLabels, differing_texts, read_release_labels
from monitoring.release.copied_texts import CopiedText, CopiedTexts
from monitoring.release.runs import ReleaseRun, running_run
from pipeline.data.records import text_id
from pipeline.params import Params
from serving.prediction_log.writer import log_url

RELEASE = "release"  # the reason of a candidate
NO_CLUSTER = 0
READ_EVERY_S = 1.0
SHOWN_FOR_S = 60.0  # to one person, before another one is asked about the same text
log = structlog.get_logger()


class AskedTexts(NamedTuple):
    """The texts that a release needs, in order of arrival, and what people said about them."""

    run: ReleaseRun | None = None
    texts: tuple[CopiedText, ...] = ()
    said: ReleaseLabels = ReleaseLabels({}, {}, frozenset())

    def open_for(self, labeller: str) -> list[CopiedText]:
        """Return the texts that this person is asked about."""
        waiting = [text for text in self.texts if text.prediction_id not in self.said.labels]
        return [text for text in waiting if labeller not in self.said.passed.get(text.prediction_id, ())]

    def find(self, prediction_id: str) -> LabelCandidate | None:
        """Return the text with this id, labelled or not, without any answer."""
        return next((blind_candidate(text) for text in self.texts if text.prediction_id == prediction_id), None)

    def places(self, index: RoundIndex) -> frozenset[int]:
        """Return where these texts stand in a round, which would show the answers."""
        found = {index.by_prediction.get(text.prediction_id) for text in self.texts}
        found |= {index.by_text.get(text_id(text.text or "")) for text in self.texts}
        return frozenset(place for place in found if place is not None)

    def without_round(self) -> RoundIndex | None:
        """Return an empty round for a release that begins before the first one; None when nothing is asked."""
        if self.run is None or not self.texts:
            return None
        made = Round(self.run.began_at, self.run.champion, (), ())
        return RoundIndex(made, {}, {}, {}, {}, frozenset(), since=self.run.began_at)


class ReleaseTexts:
    """The texts of the running release, read again when the log has grown."""

    def __init__(self, params: Params, home: Path, state: StateAccess, clock: Callable[[], float]) -> None:
        self._params, self._home, self._state, self._clock = params, home, state, clock
        self._lock = Lock()
        self._key: tuple[int, int, float] | None = None
        self._reader: CopiedTexts | None = None
        self._texts: list[CopiedText] = []
        self._read_at = 0.0
        self._shown: dict[str, tuple[str, float]] = {}  # prediction id → to whom, when

    def read(self) -> AskedTexts:
        """Return what people are asked: nothing unless a release is in its shadow stage."""
        with self._state.reading.begin() as connection:
            run = running_run(connection)
            if run is None or run.stage != "shadow" or run.wish == "abort":
                return AskedTexts()
            said = read_release_labels(connection, run.began_at)
        texts = tuple(differing_texts(self._copied(run), said, self._params.release.labels))
        return AskedTexts(run, texts, said)

    def next_text(self, labeller: str) -> LabelCandidate | None:
        """Return the first open text that nobody else is looking at, else the first open one."""
        waiting, now = self.read().open_for(labeller), self._clock()
        with self._lock:
            self._shown = {id: shown for id, shown in self._shown.items() if now - shown[1] < SHOWN_FOR_S}
            free = [text for text in waiting if self._shown.get(text.prediction_id, (labeller, now))[0] == labeller]
            chosen = next(iter(free or waiting), None)
            if chosen is None:
                return None
            self._shown[chosen.prediction_id] = labeller, now
        return blind_candidate(chosen)

    def _copied(self, run: ReleaseRun) -> list[CopiedText]:
        """Return the texts that both versions have answered; those of a second ago when the log was read then, or is away."""
        with self._lock:
            key = run.champion, run.version, run.began_at
            if self._reader is None or self._key != key:
                url, settings = log_url(self._params.log, self._home), self._params.monitor
                self._reader = CopiedTexts(
                    url, champion=run.champion, challenger=run.version, since=run.began_at, settings=settings
                )
                self._key, self._read_at, self._texts = key, 0.0, []
            if time.monotonic() - self._read_at >= READ_EVERY_S:
                try:
                    self._texts = self._reader.read()
                except OSError as error:
                    log.warning("could not read the prediction log", error=str(error)[:300])
                self._read_at = time.monotonic()
            return self._texts


def blind_candidate(text: CopiedText) -> LabelCandidate:
    """Return a candidate that holds no answer of any model."""
    return LabelCandidate(
        text_id=text_id(text.text or ""),
        prediction_id=text.prediction_id,
        text=text.text or "",
        at=text.at,
        version=0,
        label="",
        runner_up=None,
        confidence=0.0,
        margin=0.0,
        second_label=None,
        reasons=(RELEASE,),
        cluster=NO_CLUSTER,
        repeats=1,
        is_sure=False,
    )


def is_blind(candidate: LabelCandidate) -> bool:
    """Return whether the page must not show any model's answer."""
    return RELEASE in candidate.reasons
