"""int8 weights: what rounding does, and that fitting it to the inputs is worth its lines."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.runtime.classifier import Classifier
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.runtime.sessions import SESSIONS, open_session
from pipeline.session.quantise import LARGEST, quantise, rounded_weights
from tests.conftest import Project

TEXTS = ["where is my parcel?", "the card was declined twice, please help me", "i want to send the lamp back", "broken cup"] * 8


def plain(weight: np.ndarray) -> np.ndarray:
    """Rounded to the nearest, as everybody does."""
    scale = np.abs(weight).max(axis=0) / LARGEST
    return np.round(weight / scale) * scale


def test_rounding_fitted_to_the_inputs_errs_less_on_them_than_rounding_to_the_nearest() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(96, 40)).astype(np.float32)
    inputs = rng.normal(size=(500, 12)) @ rng.normal(size=(12, 96)) + 0.1 * rng.normal(size=(500, 96))  # correlated, as texts are
    rounded, scale = rounded_weights(weight, inputs.T @ inputs)
    right = inputs @ weight
    ours = np.abs(inputs @ (rounded * scale) - right).mean()
    theirs = np.abs(inputs @ plain(weight) - right).mean()
    assert ours < 0.5 * theirs


def test_inputs_that_tell_nothing_leave_rounding_to_the_nearest() -> None:
    weight = np.random.default_rng(1).normal(size=(70, 5)).astype(np.float32)
    rounded, scale = rounded_weights(weight, np.eye(70))
    assert np.allclose(rounded * scale, plain(weight), atol=1e-6)
    assert rounded.dtype == np.int8
    assert np.abs(rounded.astype(int)).max() == LARGEST


def test_an_output_without_weights_and_inputs_that_never_occur_are_no_fault() -> None:
    rounded, scale = rounded_weights(np.zeros((8, 3), np.float32), np.zeros((8, 8)))
    assert not rounded.any()
    assert np.isfinite(scale).all()


@pytest.fixture(scope="module")
def quantised(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, exported = tmp_path_factory.mktemp("int8"), made / "artifacts/export"
    layers = quantise(
        exported / "packed.onnx",
        folder / SESSIONS["packed-openvino-int8"].graph,
        to_pieces(load_tokenizer(exported, 128), TEXTS),
    )
    assert layers == 36  # six of each of six blocks
    return folder


def test_every_linear_layer_of_the_encoder_is_int8_and_nothing_else_is(quantised: Path, made: Project) -> None:
    graph = onnx.load(str(quantised / "packed.int8.onnx")).graph
    assert sum(one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2 for one in graph.initializer) == 36
    size = (quantised / "packed.int8.onnx").stat().st_size
    assert size < 0.75 * (made / "artifacts/export/packed.onnx").stat().st_size


def test_int8_answers_nearly_as_fp32_does(quantised: Path, made: Project) -> None:
    exported = made / "artifacts/export"
    ours = Classifier(exported, session=open_session(quantised, "packed-openvino-int8", 1)).predict(TEXTS[:4])
    right = Classifier(exported, threads=1).predict(TEXTS[:4])
    assert ours.probabilities == pytest.approx(right.probabilities, abs=0.1)
    assert not np.allclose(ours.probabilities, right.probabilities, atol=1e-6)
