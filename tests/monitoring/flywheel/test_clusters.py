"""Clusters: everything is assigned, names survive any text, and ids follow the texts."""

import numpy as np
import pytest

from monitoring.flywheel.clusters.build import Compared, cluster_candidates
from monitoring.flywheel.clusters.grouping import group_vectors
from monitoring.flywheel.clusters.names import MAX_CHARS, distinctive_words, words_of
from monitoring.flywheel.clusters.rank import rank_score
from monitoring.flywheel.clusters.stable_ids import PreviousClusters, carry_ids
from monitoring.flywheel.disagreement.excess import DifferenceCounts, Expected
from monitoring.flywheel.queue.round import MARGIN, NOVELTY, LabelCandidate, Round
from pipeline.params import Flywheel, Params
from tests.hostile_text import HOSTILE

AXES = np.eye(6, dtype=np.float32)


def candidate(row: int, *, text: str = "", label: str = "refund", repeats: int = 1, reason: str = MARGIN) -> LabelCandidate:
    numbers = float(row), 1, label, None, 0.5, 0.1
    return LabelCandidate(f"t{row}", f"p{row}", text or f"text {row}", *numbers, None, (reason,), -1, repeats, is_sure=False)


def at_most(clusters: int, params: Params) -> Flywheel:
    return params.flywheel.model_copy(update={"max_clusters": clusters})


def points(*counts: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors near the axes, so many near each."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(AXES[: len(counts)], counts, axis=0) + rng.normal(0, 0.05, (sum(counts), 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_every_vector_has_a_group_and_equal_vectors_share_one() -> None:
    vectors = points(30, 20, 1)
    grouped = group_vectors(vectors, 3, seed=1)
    assert [len(set(part)) for part in np.split(grouped.clusters, [30, 50])] == [1, 1, 1]
    assert len(grouped.centroids) == 3
    same = np.repeat(AXES[:1], 9, axis=0)
    assert group_vectors(same, 4, seed=1).clusters.tolist() == [0] * 9
    assert len(group_vectors(vectors[:0], 4, seed=1).clusters) == 0


def test_grouping_starts_from_the_previous_centroids_and_finds_new_groups_beside_them() -> None:
    vectors = points(30, 30, 12)
    grouped = group_vectors(vectors, 3, seed=1, start=AXES[:2])
    assert sorted((grouped.centroids @ AXES[:3].T).argmax(axis=1).tolist()) == [0, 1, 2]


def previous(
    members: list[int], ids: list[int], axes: np.ndarray, next_id: int = 10, *, comparable: bool = True
) -> PreviousClusters:
    return PreviousClusters(ids, axes, {f"t{row}": id for row, id in enumerate(members)}, next_id, is_comparable=comparable)


def names(count: int) -> list[str]:
    return [f"t{row}" for row in range(count)]


def test_the_larger_part_of_a_split_keeps_the_id_and_the_other_gets_a_new_one() -> None:
    before = previous([3] * 10, [3], AXES[:1])
    ids, next_id = carry_ids(before, AXES[:2], names(10), np.array([0] * 4 + [1] * 6), same=0.8)
    assert (ids.tolist(), next_id) == ([10, 3], 11)


def test_a_merge_keeps_the_id_of_the_larger_part_and_the_other_id_is_never_used_again() -> None:
    before = previous([3] * 4 + [5] * 6, [3, 5], AXES[:2])
    ids, next_id = carry_ids(before, AXES[:1], names(10), np.zeros(10, dtype=np.int64), same=0.8)
    assert (ids.tolist(), next_id) == ([5], 10)
    after = PreviousClusters([5], AXES[:1], {"t0": 5}, next_id, is_comparable=True)
    assert carry_ids(after, AXES[3:5], ["x", "y"], np.array([0, 1]), same=0.8)[0].tolist() == [10, 11]


def test_a_cluster_whose_texts_were_all_labelled_is_found_by_its_centroid_unless_another_model_made_it() -> None:
    members = [3] * 5 + [5] * 5
    new = np.array([0, 1])
    assert carry_ids(previous(members, [3, 5], AXES[:2]), AXES[[1, 0]], ["x", "y"], new, same=0.8)[0].tolist() == [5, 3]
    other = previous(members, [3, 5], AXES[:2], comparable=False)
    assert carry_ids(other, AXES[[1, 0]], ["x", "y"], new, same=0.8)[0].tolist() == [10, 11]
    assert carry_ids(previous(members, [3, 5], AXES[:2]), AXES[2:4], ["x", "y"], new, same=0.8)[0].tolist() == [10, 11]


def test_texts_keep_their_ids_over_a_week_in_which_a_fifth_arrives_every_day(params: Params) -> None:
    vectors = points(60, 60, 60, 60, 60, 60, seed=2)[np.random.default_rng(3).permutation(360)]
    made: Round | None = None
    for day in range(8):
        size = round(360 / 1.2 ** (7 - day))
        rows = [candidate(row) for row in range(size)]
        nothing = Compared(vectors[:0], np.zeros(0, dtype=np.bool_), Expected(), 1.96)
        clustered = cluster_candidates(rows, vectors[:size], nothing, {}, made, 1, at_most(6, params))
        before = {row.text_id: row.cluster for row in made.candidates} if made else {}
        kept = [before[row.text_id] == row.cluster for row in clustered.candidates if row.text_id in before]
        assert not before or np.mean(kept) >= 0.9
        assert {row.cluster for row in clustered.candidates} == {cluster.id for cluster in clustered.clusters}
        made = Round(float(day), 1, clustered.candidates, clustered.clusters, clustered.next_cluster)


def test_a_cluster_is_named_by_what_others_lack_and_a_repeated_word_counts_once() -> None:
    texts = ["card lost in Rome", "lost card", "card card card card card stolen", "loan rate", "my loan", "the loan rate"]
    named = distinctive_words(texts, [1, 1, 1, 2, 2, 2], 2)
    assert named[1][0] == "card"
    assert named[2] == ("loan", "rate")


@pytest.mark.parametrize("text", [*HOSTILE, "", "😀", "١٢٣", "a" * 5000, "\u202e\u0000"])
def test_any_text_can_be_named(text: str) -> None:
    named = distinctive_words([text, "another text"], [1, 2], 5)
    assert all(0 < len(word) <= MAX_CHARS and word.isprintable() for word in named[1])


def test_languages_without_spaces_are_named_by_pairs_of_characters() -> None:
    assert list(words_of("我的卡丢了")) == ["我的", "的卡", "卡丢", "丢了"]
    assert distinctive_words(["我的卡丢了", "卡丢了怎么办", "贷款利率", "贷款"], [1, 1, 2, 2], 1) == {1: ("丢了",), 2: ("贷款",)}
    assert "บัตร" not in list(words_of("บัตรหาย"))
    assert list(words_of("บัตรหาย"))


def test_rank_grows_with_excess_disagreement_volume_and_rarity() -> None:
    rows = [candidate(row) for row in range(10)]

    def score(members: list[LabelCandidate] = rows, differing: int = 5, labels: int = 100) -> float:
        return rank_score(members, differing, 10, 0.2, 0.1, {"refund": labels}, few=10)

    assert score(differing=9) > score()
    assert score([*rows, *rows]) == pytest.approx(2 * score())
    assert score([row._replace(repeats=1000) for row in rows]) < 8 * score()  # copies of a text are one case
    assert score(labels=10) == score(labels=0) == pytest.approx(10 * score())
    assert score([row._replace(reasons=(NOVELTY,)) for row in rows]) == score(labels=0)
    assert score(differing=0) > 0


def test_disagreement_of_a_cluster_counts_all_compared_answers_near_it_and_none_is_unknown(params: Params) -> None:
    vectors = points(12, 12)
    rows = [candidate(row) for row in range(24)]
    compared = Compared(points(40), np.arange(40) < 30, Expected(reference=DifferenceCounts(100, 20)), 1.96)
    clustered = cluster_candidates(rows, vectors, compared, {}, None, 1, at_most(2, params))
    assert len(clustered.clusters) == 2
    near = {row.cluster for row in clustered.candidates[:12]}
    (known,) = [cluster for cluster in clustered.clusters if cluster.id in near]
    (unknown,) = [cluster for cluster in clustered.clusters if cluster.id not in near]
    assert known.disagreement == pytest.approx(0.75 - 0.2)
    assert 0.3 < known.disagreement_lower < 0.55 < known.disagreement_upper
    assert (unknown.disagreement_lower, unknown.disagreement_upper) == (-1.0, 1.0)
    assert [cluster.rank_score for cluster in clustered.clusters] == sorted([known.rank_score, unknown.rank_score], reverse=True)
    assert known.central[0] in {row.text_id for row in clustered.candidates[:12]}
