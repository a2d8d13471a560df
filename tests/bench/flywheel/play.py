"""Play turns of the flywheel: an order chooses texts, annotators label them, both models are fitted again."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.params import Params
from tests.bench.flywheel.orders import ORDERS, Answers
from tests.bench.flywheel.worlds import RARE_SEEDS, Annotator, Corpus, Indices, World, make_world, probabilities

BATCH = 100
Flags = NDArray[np.bool_]


class Plan(NamedTuple):
    """One run: an order, an annotator, a seed, and how rare intents arrive."""

    order: str
    annotator: Annotator
    seed: int
    turns: int
    arriving: int = 0  # intents that arrive in each turn; 0: all are there from the start
    examples: int = RARE_SEEDS  # labelled texts of a rare intent when it arrives


class Turn(NamedTuple):
    """The state before a turn's labels, and what they brought; the last state has no labels after it."""

    labels: int
    accuracy: float
    rare_recall: float
    arrived: float  # recall of the rare intents that have arrived, before the turn's labels
    arrived_after: float  # as above, after them
    rare_labels: int  # texts of rare intents that were labelled so far, right or wrong


def play(corpus: Corpus, params: Params, plan: Plan) -> list[Turn]:
    """Return the state before each turn and after the last one; equal seeds have equal worlds."""
    rng = np.random.default_rng(plan.seed)
    world = make_world(corpus, rng, rare_seeds=plan.examples)
    is_late = np.isin(corpus.truth[world.labelled], world.rare) & (plan.arriving > 0)
    rows, given = world.labelled[~is_late], corpus.truth[world.labelled[~is_late]]
    asked: list[int] = []
    states: list[Turn] = []
    for turn in range(plan.turns + 1):
        here = _arrived(world, plan, turn)
        if plan.arriving and turn < plan.turns:
            examples = world.labelled[np.isin(corpus.truth[world.labelled], here[-plan.arriving :])]
            rows, given = np.concatenate([rows, examples]), np.concatenate([given, corpus.truth[examples]])
        pool = _in_traffic(corpus, world, here, asked)
        on_test, on_pool = probabilities(
            corpus.embedding[rows], given, (corpus.test_embedding, corpus.embedding[world.pool[pool]]), len(corpus.names)
        )
        is_right = on_test.argmax(axis=1) == corpus.test_truth
        states.append(_state(corpus, world, here, is_right, asked))
        if turn == plan.turns:
            break
        (second,) = probabilities(corpus.ngrams[rows], given, (corpus.ngrams[world.pool[pool]],), len(corpus.names))
        would_get = plan.annotator.label(corpus.truth[world.pool[pool]], corpus, rng)
        clusters = corpus.cluster[world.pool[pool]]
        answers = Answers(corpus, world.pool[pool], on_pool, second, clusters, rows, given, params, rng, BATCH, would_get)
        chosen = ORDERS[plan.order](answers)
        asked += pool[chosen].tolist()
        rows = np.concatenate([rows, world.pool[pool[chosen]]])
        given = np.concatenate([given, would_get[chosen]])
        if plan.arriving:
            (after,) = probabilities(corpus.embedding[rows], given, (corpus.test_embedding,), len(corpus.names))
            recall = _recall(corpus, after.argmax(axis=1) == corpus.test_truth, here)
            states[-1] = states[-1]._replace(arrived_after=recall)
    return states


def _arrived(world: World, plan: Plan, turn: int) -> Indices:
    """Return the rare intents in the traffic of a turn, the latest last."""
    return world.rare[: plan.arriving * min(turn + 1, plan.turns)] if plan.arriving else world.rare


def _in_traffic(corpus: Corpus, world: World, arrived: Indices, asked: list[int]) -> Indices:
    """Return the places in the pool that are not labelled and whose intent has arrived."""
    later = np.setdiff1d(world.rare, arrived)
    is_open = ~np.isin(corpus.truth[world.pool], later)
    is_open[asked] = False
    return np.flatnonzero(is_open)


def _state(corpus: Corpus, world: World, arrived: Indices, is_right: Flags, asked: list[int]) -> Turn:
    rare_labels = int(np.isin(corpus.truth[world.pool[asked]], world.rare).sum()) if asked else 0
    of_rare, of_arrived = _recall(corpus, is_right, world.rare), _recall(corpus, is_right, arrived)
    return Turn(len(asked), float(is_right.mean()), of_rare, of_arrived, of_arrived, rare_labels)


def _recall(corpus: Corpus, is_right: Flags, intents: Indices) -> float:
    return float(is_right[np.isin(corpus.test_truth, intents)].mean())
