"""A KServe v2 client over HTTP that is not ours, as docs/serving.md shows it."""

from collections.abc import Sequence

import numpy as np
import tritonclient.http

from pipeline.params import Serve
from pipeline.runtime.outputs import ModelOutputs


def infer_kserve(serve: Serve, model: str, texts: Sequence[str]) -> ModelOutputs:
    """Return the model's outputs for the texts."""
    tensor = tritonclient.http.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=object))
    names = ModelOutputs._fields[1:]
    requested = [tritonclient.http.InferRequestedOutput(name) for name in ("label", *names)]
    with tritonclient.http.InferenceServerClient(f"{serve.host}:{serve.http_port}", network_timeout=60.0) as client:
        result = client.infer(model, [tensor], outputs=requested)
    labels = [cell.decode() for cell in result.as_numpy("label").reshape(-1)]
    probabilities, sketch, pieces, pieces_per_word = (result.as_numpy(name) for name in names)
    return ModelOutputs(labels, probabilities, sketch, pieces.reshape(-1), pieces_per_word.reshape(-1))
