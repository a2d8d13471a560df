"""What computes: a session is a function from padded pieces to logits and sketches. ONNX Runtime and OpenVINO, by name."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Feeds = Mapping[str, NDArray[np.int64]]  # input_ids and attention_mask, both (B, T)
Session = Callable[[Feeds], tuple[Floats, Floats]]  # → logits (B, classes), sketch (B, sketch_size)
GRAPHS = {
    "onnxruntime-fp32": "model.onnx",
    "onnxruntime-int8": "model.int8.onnx",
    "openvino-fp32": "model.onnx",
    "openvino-bf16": "model.onnx",
}


def open_session(folder: Path, name: str, threads: int, device: str = "cpu") -> Session:
    """The session of this name on the graph in the folder; 0 threads: all cores.

    Raises `ValueError` for a name not in `GRAPHS`, `RuntimeError` for a device or precision that is not to be had here, and
    whatever the engine raises.
    """
    if name not in GRAPHS:
        raise ValueError(f"there is no session {name!r}; known: {', '.join(GRAPHS)}")
    graph = folder / GRAPHS[name]
    if name.startswith("openvino"):
        return _openvino(graph, name.removeprefix("openvino-"), threads)
    return _onnxruntime(graph, threads, device)


def open_graph(graph: Path, threads: int, device: str = "cpu") -> ort.InferenceSession:
    """A graph in ONNX Runtime on this device; raises `RuntimeError` where it would quietly fall back to the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    if device == "gpu" and "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError("device gpu: this onnxruntime has no CUDA; the package onnxruntime-gpu has")
    providers = ["CUDAExecutionProvider"] if device == "gpu" else []
    session = ort.InferenceSession(str(graph), options, providers=[*providers, "CPUExecutionProvider"])
    if not set(providers) <= set(session.get_providers()):
        raise RuntimeError("device gpu: CUDA did not start, ONNX Runtime's own words stand above")
    return session


def _onnxruntime(graph: Path, threads: int, device: str) -> Session:
    session = open_graph(graph, threads, device)

    def run(feeds: Feeds) -> tuple[Floats, Floats]:
        logits, sketch = session.run(["logits", "sketch"], dict(feeds))
        return logits, sketch

    return run


def _openvino(graph: Path, precision: str, threads: int) -> Session:
    import openvino as ov  # only where it is chosen: it takes a second to import

    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("this CPU has no bfloat16")
    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(str(graph), "CPU", settings).create_infer_request()

    def run(feeds: Feeds) -> tuple[Floats, Floats]:
        found = request.infer(dict(feeds), share_inputs=True)
        return np.array(found["logits"], dtype=np.float32), np.array(
            found["sketch"], dtype=np.float32
        )  # copies: it reuses its own

    return run
