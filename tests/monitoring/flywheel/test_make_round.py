"""A round: from the segments of the log to clusters with names and ids that stay."""

from pathlib import Path

import numpy as np
import pytest

from monitoring.flywheel.make_round import make_round
from monitoring.flywheel.round import read_round
from pipeline.params import Params
from tests.monitoring.flywheel.worlds import CLASSES, NOW, Customers, flywheel_home, logged, working_tree, write_log
from tests.monitoring.homes import NOON


@pytest.fixture
def customers() -> Customers:
    return Customers(3)


@pytest.fixture
def home(tmp_path: Path, customers: Customers) -> Path:
    return flywheel_home(tmp_path, customers)


@pytest.fixture
def root(tmp_path: Path, params: Params) -> Path:
    return working_tree(tmp_path, params, {f"a trusted text, number {n}": f"class_{n % CLASSES}" for n in range(40)})


def test_texts_of_an_unknown_intent_are_one_cluster_named_by_their_words(
    home: Path, root: Path, params: Params, customers: Customers
) -> None:
    intents = np.r_[customers.rng.integers(0, CLASSES, 400), np.full(20, CLASSES + 1)]
    write_log(home, logged(customers.ask(420, intents), at=NOON))
    made = make_round(home, params, NOW, root=root)
    texts = {row.text_id: row for row in made.candidates}
    unknown = [row for row in made.candidates if row.text.startswith(f"topic{CLASSES + 1} ")]
    assert len(unknown) >= 18
    clusters = {row.cluster for row in unknown}
    named = [cluster for cluster in made.clusters if cluster.id in clusters and f"topic{CLASSES + 1}" in cluster.words]
    assert named
    assert all(id in texts for cluster in made.clusters for id in cluster.central)
    assert read_round(home) == made
