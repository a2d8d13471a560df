"""Weights that are no numbers are found in a graph, wherever they are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.session.finite_weights import non_finite_weights


def write_graph(path: Path, **tensors: np.ndarray) -> Path:
    """Write a graph that does nothing but hold these tensors."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value], weights)
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_one_weight_that_is_no_number_names_its_tensor(tmp_path: Path, value: float, kind: type) -> None:
    good, bad = np.ones((3, 2), dtype=kind), np.ones((300, 4), dtype=kind)
    bad[271, 3] = value
    assert non_finite_weights(write_graph(tmp_path / "m.onnx", good=good, bad=bad)) == ["bad"]


def test_whole_numbers_and_empty_tensors_are_numbers(tmp_path: Path) -> None:
    tensors = {"ids": np.arange(3), "none": np.zeros(0, dtype=np.float32), "int8": np.array([-128], dtype=np.int8)}
    assert non_finite_weights(write_graph(tmp_path / "m.onnx", **tensors)) == []
