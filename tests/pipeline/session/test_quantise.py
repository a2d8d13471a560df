"""int8 weights: rounding fitted to the inputs against rounding to the nearest."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.runtime.classifier import Classifier
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.runtime.sessions import SESSIONS, open_session
from pipeline.session.quantise import LARGEST, quantise, rounded_weights
from tests.conftest import Project
from tests.small_base import LAYERS

TEXTS = ["where is my parcel?", "the card was declined twice, please help me", "i want to send the lamp back", "broken cup"] * 8


def round_to_nearest(weight: np.ndarray) -> np.ndarray:
    """Round to the nearest, as is usual."""
    scale = np.abs(weight).max(axis=0) / LARGEST
    return np.round(weight / scale) * scale


def test_rounding_fitted_to_the_inputs_errs_less_than_rounding_to_the_nearest() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(96, 40)).astype(np.float32)
    inputs = rng.normal(size=(500, 12)) @ rng.normal(size=(12, 96)) + 0.1 * rng.normal(size=(500, 96))  # correlated, as texts are
    rounded, scale = rounded_weights(weight, inputs.T @ inputs)
    exact = inputs @ weight
    ours = np.abs(inputs @ (rounded * scale) - exact).mean()
    theirs = np.abs(inputs @ round_to_nearest(weight) - exact).mean()
    assert ours < 0.5 * theirs


def test_uncorrelated_inputs_give_rounding_to_the_nearest() -> None:
    weight = np.random.default_rng(1).normal(size=(70, 5)).astype(np.float32)
    rounded, scale = rounded_weights(weight, np.eye(70))
    assert np.allclose(rounded * scale, round_to_nearest(weight), atol=1e-6)
    assert rounded.dtype == np.int8
    assert np.abs(rounded.astype(int)).max() == LARGEST


def test_an_output_without_weights_and_inputs_that_never_occur_are_not_a_fault() -> None:
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
    assert layers == 6 * len(LAYERS)
    return folder


def test_every_linear_layer_of_the_encoder_is_int8_and_nothing_else_is(quantised: Path, made: Project) -> None:
    graph = onnx.load(str(quantised / "packed.int8.onnx")).graph
    assert sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2 for tensor in graph.initializer) == 6 * len(
        LAYERS
    )
    size = (quantised / "packed.int8.onnx").stat().st_size
    assert size < 0.75 * (made / "artifacts/export/packed.onnx").stat().st_size


def test_int8_predicts_nearly_as_fp32_does(quantised: Path, made: Project) -> None:
    exported = made / "artifacts/export"
    ours = Classifier(exported, session=open_session(quantised, "packed-openvino-int8", 1)).predict(TEXTS[:4])
    reference = Classifier(exported, threads=1).predict(TEXTS[:4])
    assert ours.probabilities == pytest.approx(reference.probabilities, abs=0.1)
    assert not np.allclose(ours.probabilities, reference.probabilities, atol=1e-6)
