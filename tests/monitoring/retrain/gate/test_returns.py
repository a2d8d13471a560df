"""The gate measures what the labels of this turn brought, by the cluster in which people gave them."""

import json
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from monitoring.flywheel.queue.round import Cluster, Round, write_round
from monitoring.labels.feedback_file import write_file
from monitoring.retrain.gate.returns import ALL_CLUSTERS, PairedAnswers, find_returns, return_numbers, store_returns
from pipeline.data.records import text_id
from pipeline.params import Params
from state.database import open_state
from state.tables import label_returns

PUBLISHED = "2026-11-02T10:00:00+00:00"


def given(text: str, cluster: int | None, at: str = "2026-11-05T10:00:00+00:00") -> dict[str, object]:
    return {"text": text, "label": "refund", "labellers": ["ana"], "given_at": at, "source": "feedback", "cluster": cluster}


def cluster(number: int, size: int) -> Cluster:
    return Cluster(number, ("late",), (), size, 0.5, 0.4, 0.6, 1.0, 0.0, 1.0, (1.0,))


def returns_of(tmp_path: Path, params: Params) -> list:
    champion, feedback, home = (tmp_path / name for name in ("intent-1", "feedback", "live"))
    champion.mkdir()
    (champion / "lineage.json").write_text(json.dumps({"published_at": PUBLISHED}))
    rows = [given("a", 4), given("b", 4), given("c", 9), given("d", None), given("e", 4, at="2026-10-01T10:00:00+00:00")]
    write_file(feedback / "feedback.jsonl", rows)
    write_round(home, Round(0.0, 1, [], [cluster(4, 120), cluster(9, 30)], 10))
    tested = ["a", "d", "e", "old"]
    answers = PairedAnswers(
        [text_id(text) for text in tested],
        is_new=np.array([True, True, True, False]),
        champion_right=np.array([False, False, False, True]),
        candidate_right=np.array([True, True, True, True]),
    )
    return find_returns(answers, champion, feedback, home, params)


def test_only_new_labels_that_name_their_cluster_count(tmp_path: Path, params: Params) -> None:
    every, only = returns_of(tmp_path, params)
    assert (every.labels, every.texts, every.counts.rows) == (2, 120, 1)  # a was held out, b taught; cluster 9 has no test row
    assert (only.cluster, only.labels, only.texts, only.counts.gained) == (4, 2, 120, 1)


def test_a_turn_without_the_queue_has_no_return(tmp_path: Path, params: Params) -> None:
    answers = PairedAnswers(["x"], *(np.array([True]) for _ in range(3)))
    write_file(tmp_path / "feedback" / "feedback.jsonl", [given("a", None)])
    assert find_returns(answers, tmp_path / "none", tmp_path / "feedback", tmp_path, params) == []
    assert return_numbers([]) == {}


def test_the_returns_of_a_package_are_stored_once(tmp_path: Path, params: Params) -> None:
    returns = returns_of(tmp_path, params)
    with open_state(tmp_path / "live") as engine, engine.begin() as connection:
        for _ in range(2):
            store_returns(connection, "digest", returns)
        stored = connection.execute(sa.select(label_returns.c.cluster, label_returns.c.labels)).all()
    assert sorted(tuple(found) for found in stored) == [(ALL_CLUSTERS, 2), (4, 2)]
    assert return_numbers(returns)["label_return/labels"] == 2
