"""The runtime: the same predictions as PyTorch, in any batch."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from pipeline.data.records import read_examples
from pipeline.network.batching import pad as torch_pad
from pipeline.network.classifier import ExportedModel, sketch_projection
from pipeline.network.trained_model import TrainedModel
from pipeline.reference_profile import Reference, load_reference
from pipeline.runtime.batches import LENGTH_MULTIPLE, PACK_PIECES, RUN_COST, micro_batches, pack, pad, plan_packs
from pipeline.runtime.classifier import Classifier, softmax
from pipeline.runtime.outputs import ModelOutputs
from pipeline.runtime.pieces import to_pieces
from pipeline.runtime.sessions import SESSIONS, open_session
from pipeline.runtime.text import clean
from tests.conftest import Project

LENGTHS = st.lists(st.integers(1, 512), max_size=80)
ODD = (
    "", " ", "parcel", "?", "📦", "📦 where is it? 😡😡", "où est mon colis", "私の荷物はどこですか", "\u200b\ufeff",
    "word " * 500, "x" * 3000, "WHERE IS MY PARCEL", "where\tis\n\nmy parcel", "return",
    "the box came broken and the card was charged twice",
)  # fmt: skip
FP16 = 1e-3  # half of the last bit of a number near 1, and sketches are far below 1


@given(LENGTHS, st.integers(1, 4096))
@settings(deadline=None)
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget for batch in batches)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 300))
@settings(deadline=None)
def test_no_other_cuts_of_the_sorted_rows_cost_less(lengths: list[int], budget: int) -> None:
    ordered = sorted(lengths)

    def cost(batches: list[list[int]]) -> int:
        return sum(len(batch) * batch[-1] + RUN_COST for batch in batches)

    def allowed(batches: list[list[int]]) -> bool:
        return all(len(batch) == 1 or len(batch) * batch[-1] <= budget for batch in batches)

    every = (
        [ordered[i:j] for i, j in pairwise([0, *cuts, len(ordered)])]
        for number in range(len(ordered))
        for cuts in combinations(range(1, len(ordered)), number)
    )
    ours = [[lengths[row] for row in batch] for batch in micro_batches(lengths, budget)]
    assert [length for batch in ours for length in batch] == ordered
    assert cost(ours) == min(cost(batches) for batches in every if allowed(batches))


def test_micro_batches_by_hand() -> None:
    assert micro_batches([9, 2, 3, 2, 50], token_budget=9) == [[1, 3, 2], [0], [4]]
    assert micro_batches([9, 2, 3, 2, 50], token_budget=2048) == [[1, 3, 2], [0], [4]]  # together 4 * 9 > 3 * 3 + 9 + RUN_COST
    assert micro_batches([9, 9, 10, 10], token_budget=2048) == [[0, 1, 2, 3]]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=80))
@settings(deadline=None)
def test_packs_hold_every_row_once_in_order_and_are_about_equal(lengths: list[int]) -> None:
    groups = plan_packs(lengths)
    assert [row for rows in groups for row in rows] == list(range(len(lengths)))
    assert all(rows for rows in groups)
    assert max(sum(lengths[row] for row in rows) for rows in groups) <= PACK_PIECES + max(lengths)
    assert len(groups) <= -(-sum(lengths) // PACK_PIECES)


def test_packs_by_hand() -> None:
    assert plan_packs([20] * 6) == [[0, 1, 2, 3, 4, 5]]  # 120 pieces
    assert plan_packs([20] * 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]  # 160: two equal runs, not 128 and 32
    assert plan_packs([5, 512, 5]) == [[0], [1], [2]]


def test_a_pack_by_hand() -> None:
    packed = {name: array.tolist() for name, array in pack([[7, 8, 9], [4, 5]]).items()}
    assert packed == {
        "input_ids": [7, 8, 9, 4, 5, 0, 0, 0],
        "position_ids": [0, 1, 2, 0, 1, 0, 1, 2],
        "segments": [0, 0, 0, 1, 1, 2, 2, 2],
    }
    assert set(pack([[1] * LENGTH_MULTIPLE])["segments"].tolist()) == {0}  # nothing to fill up


@given(st.lists(st.lists(st.integers(1, 30_000), min_size=1, max_size=12), min_size=1, max_size=8))
@settings(deadline=None)
def test_the_runtime_pads_as_training_does(pieces: list[list[int]]) -> None:
    ours, theirs = pad(pieces), torch_pad(pieces, range(len(pieces)))
    assert {name: array.tolist() for name, array in ours.items()} == {name: tensor.tolist() for name, tensor in theirs.items()}
    assert {array.dtype for array in ours.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
def test_softmax_is_that_of_scipy(scale: float) -> None:
    logits = (scale * np.random.default_rng(0).normal(size=(9, 5))).astype(np.float32)
    assert softmax(logits) == pytest.approx(special.softmax(logits.astype(np.float64), axis=1), abs=1e-5)
    assert softmax(logits).dtype == np.float32


@pytest.fixture(scope="module")
def classifier(made: Project) -> Classifier:
    return Classifier(made / "artifacts/export", threads=1)


@pytest.fixture(scope="module")
def texts(made: Project) -> list[str]:
    """Return 100 texts: odd ones, and real ones of every length."""
    real = [row.text for row in read_examples(made / "artifacts/split/test.parquet")]
    return [*ODD, *real[: 100 - len(ODD)]]


@pytest.fixture(scope="module")
def predictions(classifier: Classifier, texts: list[str]) -> ModelOutputs:
    return classifier.predict(texts)


@pytest.fixture(scope="module")
def reference(made: Project) -> Reference:
    return load_reference(made / "artifacts/reference/reference.npz")


def close(ours: ModelOutputs, theirs: ModelOutputs) -> bool:
    """Return whether labels and shapes are equal, numbers within 1e-4 and sketches within a bit of fp16."""
    return (
        ours.labels == theirs.labels
        and ours.pieces.tolist() == theirs.pieces.tolist()
        and np.allclose(ours.probabilities, theirs.probabilities, atol=1e-4, rtol=0)
        and np.allclose(ours.sketch.astype(np.float32), theirs.sketch.astype(np.float32), atol=FP16, rtol=0)
    )


def test_it_predicts_as_pytorch_does(
    predictions: ModelOutputs, texts: list[str], trained: TrainedModel, made: Project, classifier: Classifier
) -> None:
    assert len(texts) == 100
    sketching = ExportedModel(trained.classifier, sketch_projection(384, made.params.model)).eval()
    for i, text in enumerate(texts):
        pieces = to_pieces(trained.tokenizer, [clean(text)])
        with torch.inference_mode():
            logits, sketch = sketching(**torch_pad(pieces, [0]))
        assert predictions.labels[i] == trained.labels[int(logits.argmax())]
        expected = special.softmax(logits[0].numpy() / classifier.temperature)
        assert predictions.probabilities[i] == pytest.approx(expected, abs=1e-4)
        assert predictions.sketch[i].astype(np.float32) == pytest.approx(sketch[0].numpy(), abs=FP16)
        assert predictions.pieces[i] == len(pieces[0])


def test_every_text_gets_finite_numbers(predictions: ModelOutputs, texts: list[str]) -> None:
    assert all(np.isfinite(array).all() for array in (predictions.probabilities, predictions.sketch, predictions.pieces_per_word))
    assert np.allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-5)
    assert predictions.pieces[texts.index("")] == 2
    assert predictions.pieces[texts.index("word " * 500)] == 128
    assert predictions.pieces_per_word[texts.index("")] == 0.0


def test_it_predicts_reference_rows_as_the_reference_does(made: Project, classifier: Classifier, reference: Reference) -> None:
    rows = read_examples(made / "artifacts/split/test.parquet")
    predicted = classifier.predict([row.text for row in rows])
    assert predicted.labels == reference.labels[reference.probabilities.argmax(axis=1)].tolist()
    assert predicted.probabilities == pytest.approx(reference.probabilities, abs=1e-4)
    assert np.allclose(predicted.sketch.astype(np.float32), reference.sketch.astype(np.float32), atol=FP16, rtol=0)
    assert predicted.pieces.tolist() == reference.pieces.tolist()
    assert predicted.pieces_per_word == pytest.approx(reference.pieces_per_word)


@pytest.mark.parametrize("budget", [1, 64, 1000, 10**6])
def test_how_texts_are_batched_does_not_change_predictions(
    budget: int, made: Project, texts: list[str], predictions: ModelOutputs
) -> None:
    session = open_session(made / "artifacts/export", "onnxruntime-fp32", 1, token_budget=budget)
    assert close(Classifier(made / "artifacts/export", session=session).predict(texts), predictions)


def test_packed_texts_do_not_affect_each_other(made: Project, texts: list[str], predictions: ModelOutputs) -> None:
    session = open_session(made / "artifacts/export", "packed-onnxruntime-fp32", 1)
    packed = Classifier(made / "artifacts/export", session=session)
    assert close(packed.predict(texts), predictions)
    assert close(packed.predict(texts[:1]), ModelOutputs(predictions.labels[:1], *(array[:1] for array in predictions[1:])))


@pytest.mark.parametrize("name", [name for name, kind in SESSIONS.items() if kind.precision == "bf16"])
def test_bfloat16_predicts_nearly_the_same_in_openvino(
    name: str, made: Project, texts: list[str], predictions: ModelOutputs
) -> None:
    try:
        session = open_session(made / "artifacts/export", name, 1)
    except RuntimeError as error:
        pytest.skip(str(error))
    predicted = Classifier(made / "artifacts/export", session=session).predict(texts)
    assert predicted.probabilities == pytest.approx(predictions.probabilities, abs=0.05)
    assert not np.array_equal(predicted.probabilities, predictions.probabilities)  # it is another precision


def test_the_order_of_texts_does_not_change_predictions(
    classifier: Classifier, texts: list[str], predictions: ModelOutputs
) -> None:
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = classifier.predict([texts[i] for i in order])
    original = np.argsort(order)
    restored = ModelOutputs([shuffled.labels[i] for i in original], *(array[original] for array in shuffled[1:]))
    assert close(restored, predictions)


def test_white_space_and_invisible_characters_do_not_change_a_prediction(classifier: Classifier) -> None:
    plain, odd = classifier.predict(["where is my parcel?", "\ufeff where \u200bis\n my\tparcel? "]).probabilities
    assert plain == pytest.approx(odd, abs=1e-6)


def test_no_texts_get_no_predictions(classifier: Classifier) -> None:
    assert classifier.predict([]).labels == []
