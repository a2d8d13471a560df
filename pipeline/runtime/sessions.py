"""Inference sessions by name, on ONNX Runtime or OpenVINO: functions from the pieces of N texts to logits and sketches.

A packed session concatenates texts into one row and separates them by a mask: no padding, and few lengths to compile for.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .batches import micro_batches, pack, pad, plan_packs

Floats = NDArray[np.float32]
Feeds = Mapping[str, NDArray[np.int64]]  # from `batches.pad` or `batches.pack`
GraphRun = Callable[[Feeds], tuple[Floats, Floats]]  # → logits (B, classes), sketch (B, sketch_size)
Session = Callable[[Sequence[list[int]]], tuple[Floats, Floats]]  # pieces of N texts, N > 0 → (N, classes), (N, sketch_size)
OUTPUTS = ("logits", "sketch")
INT8_GROUP = 32  # activations per scale; with more, too many labels change (docs/experiments/serving.md)


class SessionKind(NamedTuple):
    """The graph, engine and precision of a session."""

    graph: str  # a file in the model folder
    engine: str  # onnxruntime | openvino
    precision: str  # fp32 | bf16 | int8
    is_packed: bool


SESSIONS = {
    "onnxruntime-fp32": SessionKind("model.onnx", "onnxruntime", "fp32", False),
    "openvino-bf16": SessionKind("model.onnx", "openvino", "bf16", False),
    "packed-onnxruntime-fp32": SessionKind("packed.onnx", "onnxruntime", "fp32", True),
    "packed-openvino-bf16": SessionKind("packed.onnx", "openvino", "bf16", True),
    "packed-openvino-int8": SessionKind("packed.int8.onnx", "openvino", "int8", True),
}


def open_session(folder: Path, name: str, threads: int, *, device: str = "cpu", token_budget: int = 2048) -> Session:
    """Open the named session on its graph in the folder; 0 threads: all cores. `token_budget` bounds padded micro-batches.

    Raises `ValueError` for a name not in `SESSIONS`, `RuntimeError` for a device or precision that is unavailable, and any
    error of the engine.
    """
    kind = SESSIONS.get(name)
    if kind is None:
        raise ValueError(f"there is no session {name!r}; known: {', '.join(SESSIONS)}")
    run = open_run(folder, kind, threads, device)
    return in_packs(run) if kind.is_packed else in_padded_batches(run, token_budget)


def open_run(folder: Path, kind: SessionKind, threads: int, device: str = "cpu") -> GraphRun:
    """Return a function that runs the graph once on its feeds; raises as `open_session` does."""
    graph = folder / kind.graph
    if kind.engine == "onnxruntime":
        return _onnxruntime(graph, threads, device)
    if device == "gpu":
        raise RuntimeError("device gpu: OpenVINO computes on CPUs here; choose an ONNX Runtime session with session.choice")
    return _openvino(graph, kind.precision, threads)


def in_padded_batches(run: GraphRun, token_budget: int) -> Session:
    """Return a session that runs padded batches of rows of similar length."""

    def session(pieces: Sequence[list[int]]) -> tuple[Floats, Floats]:
        batches = micro_batches([len(row) for row in pieces], token_budget)
        logits, sketch = _joined([run(pad([pieces[row] for row in rows])) for rows in batches])
        order = np.argsort(np.concatenate(batches))
        return logits[order], sketch[order]

    return session


def in_packs(run: GraphRun) -> Session:
    """Return a session that runs packed rows."""

    def session(pieces: Sequence[list[int]]) -> tuple[Floats, Floats]:
        groups = plan_packs([len(row) for row in pieces])
        outputs = [run(pack([pieces[row] for row in rows])) for rows in groups]
        return _joined(
            [(logits[: len(rows)], sketch[: len(rows)]) for rows, (logits, sketch) in zip(groups, outputs, strict=True)]
        )

    return session


def open_onnx(graph: Path, threads: int, device: str = "cpu") -> ort.InferenceSession:
    """Open a graph in ONNX Runtime on this device; raises `RuntimeError` instead of falling back to the CPU silently."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    if device == "gpu" and "CUDAExecutionProvider" not in ort.get_available_providers():
        raise RuntimeError("device gpu: this onnxruntime lacks CUDA; install onnxruntime-gpu")
    providers = ["CUDAExecutionProvider"] if device == "gpu" else []
    session = ort.InferenceSession(str(graph), options, providers=[*providers, "CPUExecutionProvider"])
    if not set(providers) <= set(session.get_providers()):
        raise RuntimeError("device gpu: CUDA did not start; see ONNX Runtime's output above")
    return session


def _onnxruntime(graph: Path, threads: int, device: str) -> GraphRun:
    session = open_onnx(graph, threads, device)

    def run(feeds: Feeds) -> tuple[Floats, Floats]:
        logits, sketch = session.run(OUTPUTS, dict(feeds))
        return logits, sketch

    return run


def _openvino(graph: Path, precision: str, threads: int) -> GraphRun:
    import openvino as ov  # only when chosen: it takes a second to import

    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("this CPU has no bfloat16")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # each process would pin the first core, so two would share it while others idle
    }
    if precision == "int8":  # weights are int8 in the graph, activations are quantised at run time
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = INT8_GROUP
    request = core.compile_model(str(graph), "CPU", settings).create_infer_request()

    def run(feeds: Feeds) -> tuple[Floats, Floats]:
        outputs = request.infer(dict(feeds), share_inputs=True)
        logits, sketch = (np.array(outputs[name], dtype=np.float32) for name in OUTPUTS)  # copies: OpenVINO reuses its buffers
        return logits, sketch

    return run


def _joined(outputs: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    logits, sketch = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return logits, sketch
