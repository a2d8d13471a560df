"""The model for Triton's native ONNX Runtime backend: its config says what the graph says."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from serving.native_model import native_model
from tests.conftest import Project


def laid_out(made: Project, out: Path, device: str) -> triton.ModelConfig:
    settings = made.params.package.model_copy(update={"device": device})
    native_model(made / "artifacts/export/model.onnx", out, settings)
    return text_format.Parse((out / "config.pbtxt").read_text(), triton.ModelConfig())


def test_the_config_has_the_tensors_of_the_graph(made: Project, tmp_path: Path) -> None:
    config = laid_out(made, tmp_path / "native", "cpu")
    session = ort.InferenceSession(str(tmp_path / "native/1/model.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in config.input] == [one.name for one in session.get_inputs()]
    assert {(one.data_type, tuple(one.dims)) for one in config.input} == {(triton.TYPE_INT64, (-1,))}
    ids = np.ones((2, 7), dtype=np.int64)
    answered = session.run([one.name for one in config.output], {"input_ids": ids, "attention_mask": ids})
    assert [tuple(one.dims) for one in config.output] == [array.shape[1:] for array in answered]
    assert {one.data_type for one in config.output} == {triton.TYPE_FP32}


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", triton.ModelInstanceGroup.KIND_CPU), ("gpu", triton.ModelInstanceGroup.KIND_GPU)]
)
def test_the_instances_are_where_params_say(made: Project, tmp_path: Path, device: str, kind: int) -> None:
    config = laid_out(made, tmp_path / "native", device)
    assert [group.kind for group in config.instance_group] == [kind]
    assert config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == made.params.package.max_batch_size
