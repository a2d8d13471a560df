"""Find weights of an exported graph that are no numbers: a test text may never touch them, and a caller's does."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def non_finite_weights(graph: Path) -> list[str]:
    """Return the names of the tensors of an ONNX graph that hold NaN or an infinity."""
    tensors = onnx.load(graph).graph.initializer
    return [tensor.name for tensor in tensors if not _is_finite(tensor)]


def _is_finite(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    return not np.issubdtype(values.dtype, np.floating) or bool(np.isfinite(values).all())
