"""What computes: a session is a function from the pieces of N texts to logits and sketches. ONNX Runtime and OpenVINO, by name.

A packed session runs texts one after the other as one row, kept apart by a mask: no padding, and few lengths to prepare for.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .batches import micro_batches, pack, pad, plan_packs

Floats = NDArray[np.float32]
Feeds = Mapping[str, NDArray[np.int64]]  # what `batches.pad` or `batches.pack` gives
GraphRun = Callable[[Feeds], tuple[Floats, Floats]]  # → logits (B, classes), sketch (B, sketch_size)
Session = Callable[[Sequence[list[int]]], tuple[Floats, Floats]]  # pieces of N texts, N > 0 → (N, classes), (N, sketch_size)
OUTPUTS = ("logits", "sketch")
INT8_GROUP = 32  # activations that share a scale; with more of them too many labels change (EXPERIMENTS: int8)


class SessionKind(NamedTuple):
    """What stands behind a session's name."""

    graph: str  # a file beside tokenizer.json
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
    """The session of this name on the graph in the folder; 0 threads: all cores. `token_budget` bounds padded micro-batches.

    Raises `ValueError` for a name not in `SESSIONS`, `RuntimeError` for a device or precision that is not to be had here, and
    whatever the engine raises.
    """
    kind = SESSIONS.get(name)
    if kind is None:
        raise ValueError(f"there is no session {name!r}; known: {', '.join(SESSIONS)}")
    run = open_run(folder, kind, threads, device)
    return in_packs(run) if kind.is_packed else in_padded_batches(run, token_budget)


def open_run(folder: Path, kind: SessionKind, threads: int, device: str = "cpu") -> GraphRun:
    """One run of the graph on feeds of its own form; raises as `open_session` does."""
    graph = folder / kind.graph
    if kind.engine == "onnxruntime":
        return _onnxruntime(graph, threads, device)
    if device == "gpu":
        raise RuntimeError("device gpu: OpenVINO computes on CPUs here; set session.choice to one of ONNX Runtime's")
    return _openvino(graph, kind.precision, threads)


def in_padded_batches(run: GraphRun, token_budget: int) -> Session:
    """A session of runs over padded rows of like length."""

    def session(pieces: Sequence[list[int]]) -> tuple[Floats, Floats]:
        batches = micro_batches([len(own) for own in pieces], token_budget)
        logits, sketch = _joined([run(pad([pieces[row] for row in rows])) for rows in batches])
        back = np.argsort(np.concatenate(batches))
        return logits[back], sketch[back]

    return session


def in_packs(run: GraphRun) -> Session:
    """A session of packed runs."""

    def session(pieces: Sequence[list[int]]) -> tuple[Floats, Floats]:
        groups = plan_packs([len(own) for own in pieces])
        outputs = [run(pack([pieces[row] for row in rows])) for rows in groups]
        return _joined(
            [(logits[: len(rows)], sketch[: len(rows)]) for rows, (logits, sketch) in zip(groups, outputs, strict=True)]
        )

    return session


def open_onnx(graph: Path, threads: int, device: str = "cpu") -> ort.InferenceSession:
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


def _onnxruntime(graph: Path, threads: int, device: str) -> GraphRun:
    session = open_onnx(graph, threads, device)

    def run(feeds: Feeds) -> tuple[Floats, Floats]:
        logits, sketch = session.run(OUTPUTS, dict(feeds))
        return logits, sketch

    return run


def _openvino(graph: Path, precision: str, threads: int) -> GraphRun:
    import openvino as ov  # only where it is chosen: it takes a second to import

    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("this CPU has no bfloat16")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # each process would take the first core for its own, and two share it while others idle
    }
    if precision == "int8":  # weights are int8 in the graph, activations become so as they come
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = INT8_GROUP
    request = core.compile_model(str(graph), "CPU", settings).create_infer_request()

    def run(feeds: Feeds) -> tuple[Floats, Floats]:
        found = request.infer(dict(feeds), share_inputs=True)
        logits, sketch = (np.array(found[name], dtype=np.float32) for name in OUTPUTS)  # copies: it reuses its own
        return logits, sketch

    return run


def _joined(outputs: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    logits, sketch = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return logits, sketch
