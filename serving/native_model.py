"""The same graph for Triton's native ONNX Runtime backend: pieces and mask in, logits and sketch out; the client tokenises.

NVIDIA's container has that backend, the wheel that runs on a laptop has not: what is written here is held against Triton's own
message types, and was not run.
"""

import argparse
import shutil
from pathlib import Path

import onnxruntime as ort
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipeline.errors import RefusedError, run_stage
from pipeline.params import Package, load_params

PLATFORM = "onnxruntime_onnx"
TYPES = {"tensor(int64)": model_config_pb2.TYPE_INT64, "tensor(float)": model_config_pb2.TYPE_FP32}


def native_model(graph: Path, out: Path, settings: Package) -> None:
    """Lay out `<out>/config.pbtxt` and `<out>/1/model.onnx`."""
    (out / "1").mkdir(parents=True)
    (out / "config.pbtxt").write_text(native_config(graph, settings), encoding="utf-8")
    shutil.copy(graph, out / "1" / "model.onnx")


def native_config(graph: Path, settings: Package) -> str:
    """config.pbtxt from the graph's own signature; raises `RefusedError` for a tensor of another type than int64 or float."""
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    config = model_config_pb2.ModelConfig(platform=PLATFORM, max_batch_size=settings.max_batch_size)
    for fields, nodes in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        for node in nodes:
            if node.type not in TYPES:
                raise RefusedError(
                    str(graph), f"{node.name} is a {node.type}", "export the model anew: .venv/bin/dvc repro -f export"
                )
            dims = [one if isinstance(one, int) else -1 for one in node.shape[1:]]  # the first is the batch
            fields.add(name=node.name, data_type=TYPES[node.type], dims=dims)
    on_gpu = settings.device == "gpu"
    kinds = model_config_pb2.ModelInstanceGroup
    config.instance_group.add(kind=kinds.KIND_GPU if on_gpu else kinds.KIND_CPU, count=settings.instances)
    config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
    config.parameters["intra_op_thread_count"].string_value = str(settings.intra_op_threads)
    config.parameters["intra_op.allow_spinning"].string_value = "0"
    config.response_cache.enable = True
    written: str = text_format.MessageToString(config)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    native_model(args.exported / "model.onnx", args.out, load_params().package)
    print(f"a model for Triton's {PLATFORM} backend → {args.out}")


if __name__ == "__main__":
    run_stage(main)
