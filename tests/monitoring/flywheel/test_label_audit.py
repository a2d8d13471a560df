"""The label audit: planted wrong labels are found, out of fold, and people settle the suspects as disputes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monitoring.flywheel.label_audit import Floats, Indices, audit_corpus, audit_labels, find_suspects, out_of_fold
from monitoring.labels.disputes import Settlement
from monitoring.labels.suspects import AUDIT, SuspectLabel, as_disputes, read_suspects, write_suspects
from monitoring.labels.trusted_rows import TrustedRow
from pipeline.data.records import text_id
from pipeline.params import Params

CENTRES = np.eye(3) * 4


def nearest_mean(rows: Floats, labels: Indices, asked: Floats) -> Floats:
    """Return probabilities by the distance to the mean of each class."""
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(3)])
    logits = -((asked[:, None] - means) ** 2).sum(axis=2)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def rows_of_three_classes(wrong: Sequence[int]) -> tuple[Floats, Indices]:
    """Return 60 rows in three clear groups; the labels of some are wrong."""
    rng = np.random.default_rng(3)
    truth = np.arange(60) % 3
    labels = truth.copy()
    labels[list(wrong)] = (truth[list(wrong)] + 1) % 3
    return CENTRES[truth] + rng.normal(size=(60, 3)), labels


def test_planted_wrong_labels_are_the_suspects() -> None:
    embedding, labels = rows_of_three_classes([7, 20, 41])
    found = audit_labels(embedding, labels, nearest_mean, 5, np.random.default_rng(1))
    assert {suspect.row for suspect in found} == {7, 20, 41}
    assert all(suspect.likely == suspect.row % 3 and suspect.label == (suspect.row + 1) % 3 for suspect in found)


def test_every_row_is_judged_by_a_model_that_has_not_seen_it() -> None:
    embedding, labels = rows_of_three_classes([])
    seen: list[set[bytes]] = []

    def fit(rows: Floats, given: Indices, asked: Floats) -> Floats:
        assert not {row.tobytes() for row in rows} & {row.tobytes() for row in asked}
        assert set(given) == {0, 1, 2}, "each fold has its share of each class"
        seen.append({row.tobytes() for row in asked})
        return nearest_mean(rows, given, asked)

    probabilities = out_of_fold(embedding, labels, fit, 5, np.random.default_rng(1))
    assert len(seen) == 5 and sum(map(len, seen)) == 60
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_thresholds_are_the_mean_probability_of_each_class() -> None:
    # thresholds: (0.9 + 0.4) / 2 = 0.65 and (0.7 + 0.9) / 2 = 0.8, so 0.6 for class 1 is not confident
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.1, 0.9]])
    assert find_suspects(probabilities, np.array([0, 0, 1, 1])) == []


def test_the_corpus_is_audited_up_to_the_budget_and_small_classes_are_left_out(params: Params) -> None:
    embedding, labels = rows_of_three_classes([7, 20, 41])
    texts = [f"text {row}" for row in range(60)]
    corpus = {text_id(text): TrustedRow(text, f"class {label}") for text, label in zip(texts, labels, strict=True)}
    corpus[text_id("alone")] = TrustedRow("alone", "rare")
    places = {text: row for row, text in enumerate(texts)}

    def embed(asked: Sequence[str]) -> Floats:
        return embedding[[places[text] for text in asked]]

    settings = params.flywheel.model_copy(update={"budget": 2})
    found = audit_corpus(corpus, embed, nearest_mean, settings, 5.0)
    assert len(found) == 2 and {row.text for row in found} < {"text 7", "text 20", "text 41"}
    assert found[0].text_id == text_id(found[0].text) and found[0].label != found[0].likely


def suspect(text: str, label: str = "a", likely: str = "b") -> SuspectLabel:
    return SuspectLabel(text_id(text), text, label, likely, 0.1, 0.8, 5.0)


def test_suspects_are_stored_for_their_owner_alone_and_become_disputes(tmp_path: Path) -> None:
    assert read_suspects(tmp_path) == []
    write_suspects(tmp_path, [suspect("où est-il ?"), suspect("two")])
    assert read_suspects(tmp_path) == [suspect("où est-il ?"), suspect("two")]
    assert (tmp_path / "flywheel/suspects.jsonl").stat().st_mode & 0o077 == 0
    disputes = as_disputes(read_suspects(tmp_path), {text_id("où est-il ?"): "a", text_id("two"): "relabelled"}, [])
    assert [(row.text, row.protected_label, row.label, row.labellers) for row in disputes] == [
        ("où est-il ?", "a", "b", (AUDIT,))
    ]


def test_a_settled_suspect_is_no_longer_open() -> None:
    kept, changed = (Settlement(1, text_id("one"), "b", verdict, "ann", 6.0) for verdict in ("keep", "change"))
    for settlement in (kept, changed):
        (dispute,) = as_disputes([suspect("one")], {text_id("one"): "a"}, [settlement])
        assert dispute.settlement == settlement
