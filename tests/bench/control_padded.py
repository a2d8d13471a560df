"""Control of S4, a model.py for Triton: pieces in, padded; the batch that Triton makes of them is one run of the session.

The client tokenises and pads to a fixed length. Threads and answers are those of the text model, precision and engine too where
they have a padded form.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).parent


class TritonPythonModel:
    """One instance, as in serving/backend/model.py."""

    def initialize(self, args: dict[str, Any]) -> None:
        sys.path.insert(0, str(HERE))
        from runtime.sessions import SESSIONS, open_run

        settings = json.loads(args["model_config"])["parameters"]
        card = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
        self.labels, self.temperature = card["labels"], card["temperature"]
        kind = SESSIONS[settings["session"]["string_value"]]
        self.run = open_run(HERE, kind, int(settings["intra_op_threads"]["string_value"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request, in order."""
        from runtime.classifier import softmax

        ids = [pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy() for request in requests]
        masks = [pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy() for request in requests]
        logits, _ = self.run({"input_ids": np.concatenate(ids), "attention_mask": np.concatenate(masks)})
        probabilities = softmax(logits / self.temperature)
        labels = np.array([self.labels[best] for best in probabilities.argmax(axis=1)], dtype=np.object_).reshape(-1, 1)
        answers, start = [], 0
        for own in ids:
            rows = slice(start, start + len(own))
            tensors = [pb_utils.Tensor("label", labels[rows]), pb_utils.Tensor("probabilities", probabilities[rows])]
            answers.append(pb_utils.InferenceResponse(tensors))
            start += len(own)
        return answers
