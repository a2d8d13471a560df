"""The next batch for a labeller: from the last round, without what is done, mixed with control texts that look the same."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from monitoring.flywheel.queue.follow_up import follow_up
from monitoring.flywheel.queue.progress import PROPOSE, QueueProgress
from monitoring.flywheel.queue.round import LabelCandidate, Round
from monitoring.flywheel.queue.verify import mix_sure
from monitoring.labels.controls import issue_controls
from pipeline.data.near_duplicates import NearTexts
from pipeline.data.records import text_id
from pipeline.params import Params

DAY_S = 86_400.0
RIGHT_SHARE = 0.5  # of control texts are shown with their right label; who confirms without reading fails on the others


class QueueBatch(NamedTuple):
    """Texts to label, control texts among them; the open texts of the round, and the labels left of the turn's budget."""

    candidates: list[LabelCandidate]
    open_texts: int
    budget_left: int


class GoldTexts(NamedTuple):
    """Texts whose label is trusted, with it, and the version that seems to answer them."""

    labels: Mapping[str, str]
    version: int


class Turn(NamedTuple):
    """A round and what people did with it."""

    made: Round
    progress: QueueProgress
    params: Params

    @property
    def budget_left(self) -> int:
        """The number of texts that this turn may still ask for; those labelled before its round belong to earlier turns."""
        labelled = sum(
            bool(self.progress.opinions(row)) and not self.progress.is_labelled_before(row, self.made.made_at)
            for row in self.made.candidates
        )
        return max(0, self.params.flywheel.budget - labelled)

    def open_texts(self, labeller: str | None) -> list[LabelCandidate]:
        """Return the candidates for this labeller, or for anyone, in order, without near-duplicates of those that are closed."""
        people = self.params.labels.new_text_people
        closed = {row.text_id for row in self.made.candidates if self.progress.is_closed(row, labeller, people)}
        asked = NearTexts(
            (row.text for row in self.made.candidates if row.text_id in closed), self.params.data.near_duplicate_jaccard
        )
        return [row for row in self.made.candidates if row.text_id not in closed and not asked.matches(row.text)]

    def followed_up(self, open_texts: Sequence[LabelCandidate]) -> list[LabelCandidate]:
        """Return the open texts in an order that follows up the new intents that people proposed in this turn."""
        noted = self.progress.actions.items()
        given = {text_id: [action for action in actions if action.label and action.is_counted] for text_id, actions in noted}
        labels = {text_id: actions[-1].label or "" for text_id, actions in given.items() if actions}
        proposed = frozenset(action.label or "" for actions in given.values() for action in actions if action.action == PROPOSE)
        labelled = [row for row in self.made.candidates if row.text_id in labels]
        return follow_up(open_texts, labelled, labels, proposed, self.params.retrain.proposal_texts)


def next_batch(
    turn: Turn, gold: GoldTexts, home: Path, *, labeller: str | None, size: int, rng: random.Random, now: float
) -> QueueBatch:
    """Return the next texts of a turn, `labels.control_share` of them control texts; none once the budget is spent."""
    params, queue, left = turn.params, turn.open_texts(labeller), turn.budget_left
    open_texts = turn.followed_up(queue)
    wanted = min(size, left)
    if not open_texts or not wanted:
        return QueueBatch([], len(open_texts), left)
    share = params.labels.control_share
    controls = min(len(gold.labels), max(1, round(wanted * share))) if share else 0
    sure_share = params.flywheel.sure_share if open_texts == queue else 0.0  # a new intent needs its texts first
    fresh = mix_sure(open_texts, max(1, wanted - controls), sure_share)
    drawn = rng.sample(sorted(gold.labels), controls)
    batch = [*fresh, *_issue_gold(home, {text: gold.labels[text] for text in drawn}, gold.version, fresh, rng, now)]
    rng.shuffle(batch)
    return QueueBatch(batch, len(open_texts), left)


def _issue_gold(
    home: Path, gold: Mapping[str, str], version: int, like: Sequence[LabelCandidate], rng: random.Random, now: float
) -> list[LabelCandidate]:
    """Give control texts ids, and everything else that shows from texts of the batch, so that no one can tell them apart."""
    times = {text: now - rng.uniform(0, DAY_S) for text in gold}
    issued = issue_controls(home, times, version)
    return [_disguised(task.id, task.text, gold[task.text], times[task.text], rng.choice(like), rng) for task in issued]


def _disguised(id: str, text: str, right: str, at: float, like: LabelCandidate, rng: random.Random) -> LabelCandidate:
    """Return a control text that seems to be answered like another text: by its right label, or by the other's label."""
    is_right = rng.random() < RIGHT_SHARE or like.label == right
    label, other = (right, like.label) if is_right else (like.label, right)
    second = None if like.second_label is None else label if like.second_label == like.label else other
    runner_up = None if like.runner_up is None else other
    return like._replace(
        text_id=text_id(text), prediction_id=id, text=text, at=at, label=label, runner_up=runner_up, second_label=second
    )
