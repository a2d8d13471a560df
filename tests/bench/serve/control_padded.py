"""Run padded pieces in Triton, as the control of S4: each batch that Triton makes is one run of the session.

The client tokenises and pads to a fixed length. Threads and outputs match the text model, and so do precision and engine where
these exist for padded input.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).parent


class TritonPythonModel:
    """Implement Triton's Python backend, as serving/backend/model.py does."""

    def initialize(self, args: dict[str, Any]) -> None:
        sys.path.insert(0, str(HERE))
        from runtime.sessions import SESSIONS, open_run

        settings = json.loads(args["model_config"])["parameters"]
        card = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
        self.labels, self.temperature = card["labels"], card["temperature"]
        kind = SESSIONS[settings["session"]["string_value"]]
        self.run = open_run(HERE, kind, int(settings["intra_op_threads"]["string_value"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request, in order."""
        from runtime.classifier import softmax

        ids = [pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy() for request in requests]
        masks = [pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy() for request in requests]
        logits, _ = self.run({"input_ids": np.concatenate(ids), "attention_mask": np.concatenate(masks)})
        probabilities = softmax(logits / self.temperature)
        labels = np.array([self.labels[best] for best in probabilities.argmax(axis=1)], dtype=np.object_).reshape(-1, 1)
        responses, start = [], 0
        for request_ids in ids:
            rows = slice(start, start + len(request_ids))
            tensors = [pb_utils.Tensor("label", labels[rows]), pb_utils.Tensor("probabilities", probabilities[rows])]
            responses.append(pb_utils.InferenceResponse(tensors))
            start += len(request_ids)
        return responses
