"""Quantises linear layers to int8 weights with a scale per output; OpenVINO quantises activations at run time.

Weights are rounded input by input, and each rounding error is compensated in the inputs not yet rounded (GPTQ, Frantar et al.
2022). Plain rounding changed more labels than the gate allows (docs/experiments/serving.md, int8).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pipeline.runtime.batches import pack, plan_packs

Matrix = NDArray[np.float64]
LARGEST = 127  # of int8, symmetric around 0
DAMPING = 0.01  # of the mean diagonal; keeps the matrix invertible for rare inputs
BLOCK = 64  # inputs whose corrections are applied to the others in one product


def quantise(graph: Path, to: Path, pieces: Sequence[list[int]] | None) -> int:
    """Write the packed graph with int8 weights fitted to these texts, or just rounded; return the number of quantised layers."""
    model = onnx.load(str(graph))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    linear = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights and "/encoder/" in n.name]
    moments = second_moments(model, [node.input[0] for node in linear], pieces) if pieces is not None else {}
    restored = []
    for node in linear:
        name, inputs = node.input[1], node.input[0]
        rounded, scale = rounded_weights(numpy_helper.to_array(weights[name]), moments.get(inputs))
        parts: dict[str, NDArray[Any]] = {
            f"{name}.int8": rounded, f"{name}.scale": scale, f"{name}.zero": np.zeros(len(scale), np.int8)
        }  # fmt: skip
        model.graph.initializer.extend(numpy_helper.from_array(array, part) for part, array in parts.items())
        restored.append(helper.make_node("DequantizeLinear", list(parts), [f"{name}.restored"], axis=1))
        node.input[1] = f"{name}.restored"
    _replace(model.graph.node, [*restored, *model.graph.node])
    used = {name for node in model.graph.node for name in node.input}
    _replace(model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in used])
    onnx.save(model, str(to))
    return len(linear)


def second_moments(model: onnx.ModelProto, names: Sequence[str], pieces: Sequence[list[int]]) -> dict[str, Matrix]:
    """Return for each named tensor, (P, K) over pieces, the (K, K) sum of its outer products."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    outputs = list(dict.fromkeys(names))
    extended.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    session = ort.InferenceSession(extended.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: dict[str, Matrix] = {}
    for rows in plan_packs([len(row) for row in pieces]):
        for name, array in zip(outputs, session.run(outputs, pack([pieces[row] for row in rows])), strict=True):
            flat = array.reshape(-1, array.shape[-1])  # some hundred rows in fp32, their sums in fp64
            sums[name] = sums.get(name, 0.0) + (flat.T @ flat).astype(np.float64)
    return sums


def rounded_weights(weight: NDArray[np.float32], moment: Matrix | None) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round (K, N) weights, given the (K, K) second moment of their inputs; return int8 (K, N) and output scales (N,)."""
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny).astype(np.float64) / LARGEST
    if moment is None:
        return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)
    order = np.argsort(-np.diag(moment))  # largest inputs first: all others can still compensate
    remaining, damped = weight[order].astype(np.float64), moment[np.ix_(order, order)]
    damped[np.diag_indices_from(damped)] += DAMPING * float(np.mean(np.diag(damped))) + np.finfo(float).tiny
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    rounded = np.empty_like(remaining)
    for begin in range(0, len(remaining), BLOCK):
        end = min(begin + BLOCK, len(remaining))
        errors = np.empty((end - begin, remaining.shape[1]))
        for row in range(begin, end):
            rounded[row] = np.clip(np.round(remaining[row] / scale), -LARGEST, LARGEST)
            errors[row - begin] = (remaining[row] - rounded[row] * scale) / upper[row, row]
            remaining[row:end] -= np.outer(upper[row, row:end], errors[row - begin])
        remaining[end:] -= upper[begin:end, end:].T @ errors
    position = np.argsort(order)
    return rounded[position].astype(np.int8), scale.astype(np.float32)


def _replace(field: Any, values: Sequence[Any]) -> None:
    """Replace the values of a repeated protobuf field; they are copied first, because some may be in the field already."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
