"""Triton's Python-backend model: text in; label, probabilities, sketch and shape of the text out.

Triton joins requests of any length into one batch of texts; the session packs them, or pads those of like length together.
`runtime/`, the graph, `tokenizer.json` and `model.json` stand beside this file in the version's folder; so does `session.py` for
a model of another framework than ONNX.
"""

import fcntl
import json
import os
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
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # an instance has the threads that its session was given, no more
        settings = {name: one["string_value"] for name, one in json.loads(args["model_config"])["parameters"].items()}
        with (HERE / "model.json").open("rb") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)  # one instance after the other: loading leaves cores to the models that answer
            self.classifier = self._open(settings)

    def _open(self, settings: Any) -> Any:
        from runtime.classifier import Classifier  # known only once HERE is on the path
        from runtime.sessions import in_padded_batches, open_session

        threads, device, token_budget = int(settings["intra_op_threads"]), settings["device"], int(settings["token_budget"])
        if (HERE / "session.py").is_file():  # a framework that does not travel with every model
            from session import open_session as open_own

            session = in_padded_batches(open_own(HERE, threads, device), token_budget)
        else:
            session = open_session(HERE, settings["session"], threads, device=device, token_budget=token_budget)
        return Classifier(HERE, session=session)

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
        outputs = self._outputs(texts) if texts else {}
        answers = []
        for request, span in zip(requests, spans, strict=True):
            if isinstance(span, str):
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(span)))
                continue
            rows, wanted = slice(*span), request.requested_output_names()  # a tensor costs more than what stands in it
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name][rows]) for name in wanted]))
        return answers

    def _outputs(self, texts: list[str]) -> dict[str, Any]:
        """Every output by name, (N, …) for N texts."""
        found = self.classifier.predict(texts)
        return {
            "label": np.array(found.labels, dtype=np.object_).reshape(-1, 1),
            "probabilities": found.probabilities,
            "sketch": found.sketch,
            "pieces": found.pieces.reshape(-1, 1),
            "pieces_per_word": found.pieces_per_word.reshape(-1, 1),
        }
