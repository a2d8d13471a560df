"""Triton's Python-backend model: text in; label, probabilities, sketch and the text's length out.

Triton joins requests of any length into one batch of texts; the session packs them, or pads texts of similar length together.
The version's folder holds this file, `runtime/`, the graph, `tokenizer.json` and `model.json`, and `session.py` for a model of
another framework than ONNX.
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
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # an instance uses only the threads of its session
        settings = {name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()}
        with (HERE / "model.json").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one instance after the other: loading leaves cores to the models that serve
            self.classifier = self._open(settings)

    def _open(self, settings: Any) -> Any:
        from runtime.classifier import Classifier  # importable only once HERE is on the path
        from runtime.sessions import in_padded_batches, open_session

        threads, device, token_budget = int(settings["intra_op_threads"]), settings["device"], int(settings["token_budget"])
        if (HERE / "session.py").is_file():  # a framework that the runtime does not include
            from session import open_session as open_framework_session

            session = in_padded_batches(open_framework_session(HERE, threads, device), token_budget)
        else:
            session = open_session(HERE, settings["session"], threads, device=device, token_budget=token_budget)
        return Classifier(HERE, session=session)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request, in order; a request whose text is not UTF-8 fails alone."""
        texts: list[str] = []
        spans: list[tuple[int, int] | str] = []
        for request in requests:
            cells = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
            try:
                decoded = [cell.decode("utf-8") for cell in cells]
            except UnicodeDecodeError as error:
                spans.append(f"text is not UTF-8: {error}")
                continue
            spans.append((len(texts), len(texts) + len(decoded)))
            texts += decoded
        try:
            outputs = self._outputs(texts) if texts else {}
        except Exception as error:  # one text may be the cause: the others get their answers
            if len(requests) > 1:
                return [response for request in requests for response in self.execute([request])]
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(f"the model failed: {error!r}"))]
        responses = []
        for request, span in zip(requests, spans, strict=True):
            if isinstance(span, str):
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(span)))
                continue
            rows, names = slice(*span), request.requested_output_names()  # only these: a tensor costs more than its content
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name][rows]) for name in names]))
        return responses

    def _outputs(self, texts: list[str]) -> dict[str, Any]:
        """Return every output tensor by name, (N, …) for N texts."""
        outputs = self.classifier.predict(texts)
        return {
            "label": np.array(outputs.labels, dtype=np.object_).reshape(-1, 1),
            "probabilities": outputs.probabilities,
            "sketch": outputs.sketch,
            "pieces": outputs.pieces.reshape(-1, 1),
            "pieces_per_word": outputs.pieces_per_word.reshape(-1, 1),
        }
