"""Orders of the queue: the shipped one, and its controls: random, margin, core set, and the largest disagreement."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.flywheel.candidates.criteria import reasons_of
from monitoring.flywheel.disagreement.task import TASK
from monitoring.flywheel.queue.follow_up import follow_up
from monitoring.flywheel.queue.order import order_queue
from monitoring.flywheel.queue.round import LabelCandidate
from monitoring.flywheel.queue.verify import is_sure
from pipeline.params import Params
from tests.bench.flywheel.worlds import Corpus, Floats, Indices


class Answers(NamedTuple):
    """What both models say about the rows of the pool, and what is labelled already."""

    corpus: Corpus
    rows: Indices
    champion: Floats  # (rows, classes) probabilities
    second: Floats
    clusters: NDArray[np.int64]  # (rows,)
    labelled: Indices  # rows of the corpus
    given: Indices  # their labels, of which some are wrong
    params: Params
    rng: np.random.Generator
    size: int  # labels of the turn
    would_get: Indices  # (rows,) labels that the annotator gives, once asked


BATCH = 10  # texts between two looks at the proposals
Order = Callable[[Answers], Indices]


def ours(answers: Answers) -> Indices:
    """Return the first of the candidates in the shipped order; where they are too few, any other texts."""
    candidates = to_candidates(answers)
    counts = np.bincount(answers.given, minlength=len(answers.corpus.names))
    by_name = {str(name): int(count) for name, count in zip(answers.corpus.names, counts, strict=True)}
    jaccard = answers.params.data.near_duplicate_jaccard
    order = order_queue(candidates, by_name, answers.params.flywheel, jaccard, answers.rng)
    return _follow_up([candidates[index] for index in order.tolist()], set(by_name) - _without_labels(by_name), answers)


def _without_labels(counts: dict[str, int]) -> set[str]:
    return {name for name, count in counts.items() if not count}


def _follow_up(queue: list[LabelCandidate], known: set[str], answers: Answers) -> Indices:
    """Ask in batches as the console does; intents without a label are proposals, which the queue follows up within the turn."""
    places = {int(row): place for place, row in enumerate(answers.rows)}
    asked: list[LabelCandidate] = []
    labels: dict[str, str] = {}
    while queue and len(asked) < answers.size:
        proposed = frozenset(labels.values()) - known
        queue = follow_up(queue, asked, labels, proposed, answers.params.retrain.proposal_texts)
        batch, queue = queue[: min(BATCH, answers.size - len(asked))], queue[min(BATCH, answers.size - len(asked)) :]
        asked += batch
        labels |= {row.text_id: str(answers.corpus.names[answers.would_get[places[int(row.text_id)]]]) for row in batch}
    return np.array([places[int(row.text_id)] for row in asked], dtype=np.int64)


def to_candidates(answers: Answers) -> list[LabelCandidate]:
    """Return the rows as the flywheel has them."""
    corpus, settings = answers.corpus, answers.params.flywheel
    margin, second = TASK.margins(answers.champion), answers.second.argmax(axis=1)
    best = np.argsort(answers.champion, axis=1)[:, ::-1][:, :2]
    candidates = []
    for i, row in enumerate(answers.rows.tolist()):
        label, runner_up, other = (str(corpus.names[number]) for number in (best[i, 0], best[i, 1], second[i]))
        confidence = float(answers.champion[i, best[i, 0]])
        is_low = bool(margin[i] < settings.low_margin)
        reasons = reasons_of(
            is_differing=label != other, is_low=is_low, is_novel=False, is_proposed=False, is_few=False, is_sure=False
        )
        numbers = confidence, float(margin[i])
        sure = is_sure(label, other, confidence, reasons, settings)
        text, cluster = str(corpus.texts[row]), int(answers.clusters[i])
        candidates.append(
            LabelCandidate(
                *(str(row), str(row), text, 0.0, 1, label, runner_up, *numbers, other, reasons, cluster, 1, sure),
                sketch=str(corpus.sketch[row]),
            )
        )
    return candidates


def at_random(answers: Answers) -> Indices:
    """Return any rows."""
    return answers.rng.permutation(len(answers.rows))[: answers.size]


def by_margin(answers: Answers) -> Indices:
    """Return the rows between whose two best classes the champion hesitates most."""
    return np.argsort(TASK.margins(answers.champion), kind="stable")[: answers.size]


def by_disagreement(answers: Answers) -> Indices:
    """Return the rows that the models label differently, those with the largest distance of probabilities first."""
    agrees = answers.champion.argmax(axis=1) == answers.second.argmax(axis=1)
    order = np.lexsort((-np.abs(answers.champion - answers.second).sum(axis=1), agrees))
    return np.asarray(order[: answers.size], dtype=np.int64)


def by_core_set(answers: Answers) -> Indices:
    """Return the rows that are each furthest from all labelled and chosen ones (k-center greedy, Sener and Savarese 2018)."""
    embedding = answers.corpus.embedding[answers.rows]
    nearest = (embedding @ answers.corpus.embedding[answers.labelled].T).max(axis=1)
    chosen = []
    for _ in range(min(answers.size, len(answers.rows))):
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, embedding @ embedding[chosen[-1]])
        nearest[chosen] = np.inf
    return np.array(chosen, dtype=np.int64)


OURS = "rare-aware committee (ours)"
ORDERS: dict[str, Order] = {
    "random": at_random,
    "margin": by_margin,
    "core set": by_core_set,
    "largest disagreement": by_disagreement,
    OURS: ours,
}
