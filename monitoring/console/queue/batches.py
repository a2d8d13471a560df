"""What a person is asked next: a short batch of the queue with control texts in it, kept in the home so that a restart goes on.

Control texts look like the others (`monitoring.flywheel.queue.batch`); only the file says which candidates are not of the round.
"""

import hashlib
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.console.queue.round_index import RoundIndex
from monitoring.console.queue.standing import QueueStanding
from monitoring.flywheel.queue.batch import GoldTexts, Turn, next_batch
from monitoring.flywheel.queue.round import LabelCandidate
from monitoring.labels.book import read_current_book
from pipeline.atomic_write import atomic_write
from pipeline.errors import EvergreenError
from pipeline.params import Params

FOLDER = "console/batches"
SIZE, LOOK_AHEAD = 10, 1000
GOLD_FOR_S = 600.0  # the corpus is read again after this long


class PersonsBatch(NamedTuple):
    """The batch of one person in one round."""

    made_at: float  # of the round
    candidates: list[LabelCandidate]
    controls: list[LabelCandidate]  # every control text that the person got in this round


class Batches:
    """Batches by person and mode."""

    def __init__(self, params: Params, home: Path) -> None:
        self._params, self._home, self.lock = params, home, Lock()
        self._gold: tuple[float, dict[str, str]] = (-GOLD_FOR_S, {})

    def read(self, labeller: str, mode: str, index: RoundIndex) -> PersonsBatch:
        """Return the person's batch of this round; an empty one where there is none, or it cannot be read."""
        try:
            stored = json.loads(self._path(labeller, mode).read_text(encoding="ascii"))
            batch = PersonsBatch(stored["made_at"], _candidates(stored["candidates"]), _candidates(stored["controls"]))
        except (OSError, ValueError, TypeError, KeyError):
            batch = PersonsBatch(0.0, [], [])
        return batch if batch.made_at == index.round.made_at else PersonsBatch(index.round.made_at, [], [])

    def draw(self, labeller: str, mode: str, index: RoundIndex, standing: QueueStanding, places: Sequence[int]) -> PersonsBatch:
        """Draw and keep the next batch from these open places; empty when none is left."""
        before = self.read(labeller, mode, index)
        open_texts = [index.round.candidates[place] for place in places[:LOOK_AHEAD]]
        if not open_texts:
            return before._replace(candidates=[])
        done = [index.round.candidates[place] for place in sorted(standing.done)]
        turn = Turn(index.round._replace(candidates=[*done, *open_texts]), standing.progress, self._without_end())
        gold = GoldTexts(self._gold_labels({row.text for row in before.controls}), index.round.version)
        now, rng = time.time(), random.SystemRandom()
        batch = next_batch(turn, gold, self._home, labeller=labeller, size=SIZE, rng=rng, now=now).candidates
        controls = [row for row in batch if row.prediction_id not in index.by_prediction]
        asked = [row for row in batch if row.prediction_id in index.by_prediction] or open_texts[:SIZE]
        asked.sort(key=lambda row: index.by_prediction[row.prediction_id])
        for control in controls:
            asked.insert(rng.randint(0, len(asked)), control)
        drawn = PersonsBatch(index.round.made_at, asked, [*before.controls, *controls])
        self._write(labeller, mode, drawn)
        return drawn

    def _without_end(self) -> Params:
        """Return the params with a budget that is never used up: the page shows it, and people may go on."""
        flywheel = self._params.flywheel.model_copy(update={"budget": self._params.flywheel.max_candidates + SIZE})
        return self._params.model_copy(update={"flywheel": flywheel})

    def _gold_labels(self, seen: set[str]) -> dict[str, str]:
        """Return texts of the corpus with their labels, without those that the person got; none where they cannot be read."""
        read_at, gold = self._gold
        if time.monotonic() - read_at > GOLD_FOR_S:
            try:
                gold = {row.text: row.label for row in read_current_book(self._params, self._home).trusted.corpus.values()}
            except (EvergreenError, sa.exc.SQLAlchemyError, OSError):
                gold = {}
            self._gold = time.monotonic(), gold
        return {text: label for text, label in gold.items() if text not in seen}

    def _path(self, labeller: str, mode: str) -> Path:
        name = hashlib.sha256(f"{labeller}\n{mode}".encode()).hexdigest()[:32]
        return self._home / FOLDER / f"{name}.json"

    def _write(self, labeller: str, mode: str, batch: PersonsBatch) -> None:
        path = self._path(labeller, mode)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(json.dumps(batch._asdict()), encoding="ascii")
            part.chmod(0o600)


def _candidates(rows: list[list[object]]) -> list[LabelCandidate]:
    candidates = [LabelCandidate(*row) for row in rows]  # type: ignore[arg-type]
    return [candidate._replace(reasons=tuple(candidate.reasons)) for candidate in candidates]
