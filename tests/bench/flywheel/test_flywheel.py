"""Check the flywheel bench against values computed by hand, and its worlds on a small corpus."""

import numpy as np
import pytest

from monitoring.flywheel.queue.follow_up import encode_sketch
from pipeline.params import Params
from tests.bench.flywheel.orders import ORDERS, OURS
from tests.bench.flywheel.play import Plan, play
from tests.bench.flywheel.rows import area, gain_ratio, gains, labels_to_reach
from tests.bench.flywheel.worlds import RARE, RARE_POOL, RARE_SEEDS, SEEDS, Annotator, Corpus, make_world, unit

RIGHT = Annotator(0.0, confuses=False)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Return 18 intents of 60 rows, each around a direction of its own."""
    rng = np.random.default_rng(5)
    truth = np.repeat(np.arange(18), 60)
    rows = unit(np.eye(18)[truth] * 3 + rng.normal(size=(1080, 18))).astype(np.float32)
    names, texts = np.array([f"intent {n}" for n in range(18)]), np.array([f"row {n}" for n in range(1080)])
    sketch = np.array([encode_sketch(row) for row in rows])
    return Corpus(names, texts, truth, rows, rows, truth, rows, rows, sketch, truth, np.roll(np.arange(18), 1))


def test_a_world_has_few_labels_of_rare_intents_and_shares_no_row(corpus: Corpus) -> None:
    world = make_world(corpus, np.random.default_rng(1))
    labelled, pool = corpus.truth[world.labelled], corpus.truth[world.pool]
    assert len(world.rare) == RARE and not set(world.labelled) & set(world.pool)
    for intent in range(18):
        expected = (RARE_SEEDS, RARE_POOL) if intent in world.rare else (SEEDS, 60 - SEEDS)
        assert ((labelled == intent).sum(), (pool == intent).sum()) == expected


@pytest.mark.parametrize(("confuses", "wrong"), [(False, 0.15), (True, 0.15), (True, 0.0)])
def test_annotators_err_at_their_rate(corpus: Corpus, confuses: bool, wrong: float) -> None:
    truth = np.tile(np.arange(18), 500)
    given = Annotator(wrong, confuses).label(truth, corpus, np.random.default_rng(2))
    assert (given != truth).mean() == pytest.approx(wrong, abs=0.01)
    if confuses:
        assert set(given[given != truth] - corpus.neighbour[truth[given != truth]]) <= {0}


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_labels_a_batch_of_texts_once(corpus: Corpus, params: Params, order: str) -> None:
    states = play(corpus, params, Plan(order, RIGHT, 3, 2))
    assert [state.labels for state in states] == [0, 100, 200]
    assert states == play(corpus, params, Plan(order, RIGHT, 3, 2)), "equal seeds have equal runs"


def test_intents_arrive_in_turn_and_their_gain_is_measured_over_those_that_are_there(corpus: Corpus, params: Params) -> None:
    states = play(corpus, params, Plan(OURS, RIGHT, 3, 2, arriving=3, examples=0))
    assert states[0].arrived == 0.0, "nothing is known of an intent that has just arrived"
    assert states[1].arrived <= states[0].arrived_after, "three more intents count"


def test_gains_areas_and_labels_follow_their_definitions() -> None:
    recall = np.array([[0.1, 0.2, 0.5, 0.5], [0.2, 0.2, 0.4, 0.8]])
    assert gains(recall).tolist() == pytest.approx([0.4, 0.2])
    assert area(recall).tolist() == pytest.approx([(0.15 + 0.35 + 0.5) / 3, (0.2 + 0.3 + 0.6) / 3])
    needed = labels_to_reach(recall, np.array([0.35, 0.9]))
    assert needed[0] == pytest.approx(150) and np.isnan(needed[1])
    assert labels_to_reach(recall, np.array([0.05, 0.1])).tolist() == [0.0, 0.0]


def test_the_ratio_of_gains_is_of_means_and_a_control_without_gain_is_no_fault() -> None:
    ratio = gain_ratio(np.array([0.4, 0.2]), np.array([0.1, 0.05]))
    assert ratio.median == pytest.approx(4) and ratio.low == pytest.approx(4) and ratio.pairs == 2
    assert gain_ratio(np.array([0.4]), np.array([-0.1])).median == pytest.approx(400)
