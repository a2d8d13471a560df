"""The reference that the stage writes for a small project."""

import json

import numpy as np
import pytest

from pipeline.data.records import Example, labels_of, read_examples
from pipeline.errors import InputError
from pipeline.held_out_outputs import HeldOutOutputs, load_held_out
from pipeline.params import Reference as ReferenceSettings
from pipeline.reference_profile import Reference, load_corrupted, load_reference
from pipeline.runtime.classifier import Classifier
from pipeline.stages.reference import reference
from tests.conftest import Project

CORRUPTION = {"mistyped": 0.2, "kept_words": 0.3}


@pytest.fixture(scope="module")
def classifier(made: Project) -> Classifier:
    return Classifier(made / "artifacts/export")


@pytest.fixture(scope="module")
def rows(sides: dict[str, list[Example]]) -> list[Example]:
    return sides["test"][-40:]


@pytest.fixture(scope="module")
def outputs(made: Project, rows: list[Example]) -> HeldOutOutputs:
    return load_held_out(made / "artifacts/evaluation/held_out.npz", [row.id for row in rows])


@pytest.fixture(scope="module")
def stored(made: Project) -> Reference:
    return load_reference(made / "artifacts/reference/reference.npz")


def test_it_has_one_entry_for_each_test_row(stored: Reference, sides: dict[str, list[Example]], made: Project) -> None:
    rows = len(sides["test"])
    assert stored.ids.tolist() == [row.id for row in sides["test"]]
    assert stored.probabilities.shape == (rows, len(stored.labels))
    assert stored.sketch.shape == (rows, made.params.model.sketch_size)
    assert {len(column) for name, column in stored._asdict().items() if name != "labels"} == {rows}


def test_no_reference_row_took_part_in_fitting_or_early_stopping(stored: Reference, sides: dict[str, list[Example]]) -> None:
    fitted = {row.id for side in ("train", "val") for row in sides[side]}
    assert not fitted & set(stored.ids.tolist())


def test_types_are_those_of_the_record(stored: Reference) -> None:
    kinds = {name: column.dtype.name for name, column in stored._asdict().items() if column.dtype.kind != "U"}
    assert kinds == {
        "probabilities": "float32",
        "sketch": "float16",
        "pieces": "int32",
        "pieces_per_word": "float32",
        "correct": "bool",
        "calibrate": "bool",
    }


def test_probabilities_are_probabilities_and_calibrated(stored: Reference, made: Project) -> None:
    assert np.allclose(stored.probabilities.sum(axis=1), 1, atol=1e-5)
    assert stored.probabilities.min() >= 0
    scores = json.loads((made / "artifacts/evaluation/metrics.json").read_text())["test"]
    index = {label: i for i, label in enumerate(stored.labels.tolist())}
    truth = [index[label] for label in labels_of(read_examples(made / "artifacts/split/test.parquet"))]
    likelihood = -np.log(stored.probabilities[np.arange(len(truth)), truth].astype(np.float64)).mean()
    assert likelihood == pytest.approx(scores["nll_calibrated"], rel=1e-3)


def test_the_share_of_correct_rows_is_the_measured_accuracy(stored: Reference, made: Project) -> None:
    scores = json.loads((made / "artifacts/evaluation/metrics.json").read_text())
    assert stored.correct.mean() == pytest.approx(scores["test"]["accuracy"])


def test_correct_means_that_the_likeliest_label_is_the_true_one(stored: Reference, sides: dict[str, list[Example]]) -> None:
    predicted = stored.labels[stored.probabilities.argmax(axis=1)].tolist()
    assert stored.correct.tolist() == [a == b for a, b in zip(predicted, labels_of(sides["test"]), strict=True)]


def test_outputs_computed_by_the_evaluation_are_those_of_the_exported_model(
    stored: Reference, sides: dict[str, list[Example]], classifier: Classifier
) -> None:
    exported = classifier.predict([row.text for row in sides["test"]])
    assert np.abs(stored.probabilities - exported.probabilities).max() < 1e-4
    assert np.abs(stored.sketch.astype(np.float32) - exported.sketch.astype(np.float32)).max() < 2e-3  # one step of fp16
    assert stored.pieces.tolist() == exported.pieces.tolist()


def test_outputs_of_other_rows_are_refused(made: Project, sides: dict[str, list[Example]]) -> None:
    ids = [row.id for row in sides["test"]]
    with pytest.raises(InputError, match="other rows"):
        load_held_out(made / "artifacts/evaluation/held_out.npz", ids[::-1])


def test_lengths_are_those_of_the_texts(stored: Reference, sides: dict[str, list[Example]], classifier: Classifier) -> None:
    for i, row in enumerate(sides["test"][:20]):
        pieces = len(classifier.tokenizer.encode(row.text).ids)
        assert stored.pieces[i] == pieces
        assert stored.pieces_per_word[i] == pytest.approx((pieces - 2) / len(row.text.split()))


def test_corrupted_texts_are_the_same_rows_with_lower_accuracy(stored: Reference, made: Project) -> None:
    corrupted = load_corrupted(made / "artifacts/reference/reference.npz")
    assert corrupted is not None
    assert corrupted.ids.tolist() == stored.ids.tolist()
    assert corrupted.probabilities.shape == stored.probabilities.shape
    assert (corrupted.probabilities != stored.probabilities).any(axis=1).mean() > 0.5
    assert corrupted.correct.mean() < stored.correct.mean()


def test_the_halves_follow_the_share(stored: Reference, made: Project) -> None:
    assert int(stored.calibrate.sum()) == round(made.params.reference.calibrate_share * len(stored.ids))


@pytest.mark.parametrize("share", [0.1, 0.8])
def test_another_share_cuts_elsewhere(share: float, classifier: Classifier, rows: list[Example], outputs: HeldOutOutputs) -> None:
    settings = ReferenceSettings(calibrate_share=share, seed=1, **CORRUPTION)
    pair = reference(classifier, rows, outputs, settings)
    assert int(pair.original.calibrate.sum()) == round(40 * share)


def test_the_cut_follows_the_seed_and_not_the_order_of_rows(
    classifier: Classifier, rows: list[Example], outputs: HeldOutOutputs
) -> None:
    def cut(seed: int) -> list[bool]:
        settings = ReferenceSettings(calibrate_share=0.5, seed=seed, **CORRUPTION)
        return reference(classifier, rows, outputs, settings).original.calibrate.tolist()

    first = cut(1)
    assert first == cut(1)
    assert first != cut(2)
    assert first != [True] * 20 + [False] * 20
