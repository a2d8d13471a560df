"""Triton's Python-backend model: text in; label, probabilities, sketch and shape of the text out.

Triton joins requests of any length into one batch of texts; the classifier cuts it into micro-batches of like length.
`runtime/`, the graph, `tokenizer.json` and `model.json` stand beside this file in the version's folder; so does `session.py` for
a model of another framework than ONNX.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).parent


class TritonPythonModel:
    """One instance; Triton starts as many processes as config.pbtxt asks for."""

    def initialize(self, args: dict[str, Any]) -> None:
        sys.path.insert(0, str(HERE))
        from runtime.classifier import Classifier  # known only once HERE is on the path
        from runtime.sessions import open_session

        settings = {name: one["string_value"] for name, one in json.loads(args["model_config"])["parameters"].items()}
        threads, device = int(settings["intra_op_threads"]), settings["device"]
        if (HERE / "session.py").is_file():  # a framework that does not travel with every model
            from session import open_session as open_own

            session = open_own(HERE, threads, device)
        else:
            session = open_session(HERE, settings["session"], threads, device)
        self.classifier = Classifier(HERE, session=session, token_budget=int(settings["token_budget"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request, in order; a request whose text is not UTF-8 gets an error of its own and harms no other."""
        texts: list[str] = []
        spans: list[tuple[int, int] | str] = []
        for request in requests:
            cells = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
            try:
                own = [cell.decode("utf-8") for cell in cells]
            except UnicodeDecodeError as error:
                spans.append(f"text is not UTF-8: {error}")
                continue
            spans.append((len(texts), len(texts) + len(own)))
            texts += own
        predictions = self.classifier.predict(texts) if texts else None
        answers = []
        for span in spans:
            if isinstance(span, str) or predictions is None:
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(span))))
                continue
            rows = slice(*span)
            answers.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor("label", np.array(predictions.labels[rows], dtype=np.object_).reshape(-1, 1)),
                        pb_utils.Tensor("probabilities", predictions.probabilities[rows]),
                        pb_utils.Tensor("sketch", predictions.sketch[rows]),
                        pb_utils.Tensor("pieces", predictions.pieces[rows].reshape(-1, 1)),
                        pb_utils.Tensor("pieces_per_word", predictions.pieces_per_word[rows].reshape(-1, 1)),
                    ]
                )
            )
        return answers
