"""Linear layers in int8: weights beforehand, a scale for each output; activations become int8 as they come (OpenVINO).

Weights are rounded one input after the other, and what rounding did is made up for in the inputs that are still to come
(GPTQ, Frantar et al. 2022): plain rounding cost more labels than the gate allows (EXPERIMENTS: int8).
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
LARGEST = 127  # of int8, the same on both sides of 0
DAMPING = 0.01  # of the mean diagonal, so that inputs that hardly occur stay invertible
BLOCK = 64  # inputs whose corrections reach the others in one product


def quantise(graph: Path, to: Path, pieces: Sequence[list[int]]) -> int:
    """Write the packed graph with int8 weights, fitted to what its layers see of these texts; returns the layers changed."""
    model = onnx.load(str(graph))
    weights = {one.name: one for one in model.graph.initializer}
    linear = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights and "/encoder/" in n.name]
    moments = second_moments(model, [node.input[0] for node in linear], pieces)
    restored = []
    for node in linear:
        name, inputs = node.input[1], node.input[0]
        rounded, scale = rounded_weights(numpy_helper.to_array(weights[name]), moments[inputs])
        parts: dict[str, NDArray[Any]] = {
            f"{name}.int8": rounded, f"{name}.scale": scale, f"{name}.zero": np.zeros(len(scale), np.int8)
        }  # fmt: skip
        model.graph.initializer.extend(numpy_helper.from_array(array, part) for part, array in parts.items())
        restored.append(helper.make_node("DequantizeLinear", list(parts), [f"{name}.restored"], axis=1))
        node.input[1] = f"{name}.restored"
    _replace(model.graph.node, [*restored, *model.graph.node])
    used = {name for node in model.graph.node for name in node.input}
    _replace(model.graph.initializer, [one for one in model.graph.initializer if one.name in used])
    onnx.save(model, str(to))
    return len(linear)


def second_moments(model: onnx.ModelProto, names: Sequence[str], pieces: Sequence[list[int]]) -> dict[str, Matrix]:
    """For each of these tensors, (P, K) over pieces: the (K, K) sum of its outer products."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    wanted = list(dict.fromkeys(names))
    shown.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted)
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: dict[str, Matrix] = {}
    for rows in plan_packs([len(own) for own in pieces]):
        for name, array in zip(wanted, session.run(wanted, pack([pieces[row] for row in rows])), strict=True):
            flat = array.reshape(-1, array.shape[-1])  # some hundred rows in fp32, their sums in fp64
            sums[name] = sums.get(name, 0.0) + (flat.T @ flat).astype(np.float64)
    return sums


def rounded_weights(weight: NDArray[np.float32], moment: Matrix) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(K, N) weights and the (K, K) second moment of their inputs → int8 (K, N) and the scale of each output (N,)."""
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny).astype(np.float64) / LARGEST
    order = np.argsort(-np.diag(moment))  # the inputs that matter most first: all others can still make up for them
    left, damped = weight[order].astype(np.float64), moment[np.ix_(order, order)]
    damped[np.diag_indices_from(damped)] += DAMPING * float(np.mean(np.diag(damped))) + np.finfo(float).tiny
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    rounded = np.empty_like(left)
    for begin in range(0, len(left), BLOCK):
        end = min(begin + BLOCK, len(left))
        errors = np.empty((end - begin, left.shape[1]))
        for row in range(begin, end):
            rounded[row] = np.clip(np.round(left[row] / scale), -LARGEST, LARGEST)
            errors[row - begin] = (left[row] - rounded[row] * scale) / upper[row, row]
            left[row:end] -= np.outer(upper[row, row:end], errors[row - begin])
        left[end:] -= upper[begin:end, end:].T @ errors
    back = np.argsort(order)
    return rounded[back].astype(np.int8), scale.astype(np.float32)


def _replace(field: Any, values: Sequence[Any]) -> None:
    """A repeated field of a protobuf message gets these values; they are copied first, for some stand in it already."""
    copies = [type(one).FromString(one.SerializeToString()) for one in values]
    del field[:]
    field.extend(copies)
