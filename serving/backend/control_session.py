"""A session of scikit-learn: logistic regression on the embeddings of a frozen ONNX encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from sklearn.linear_model import LogisticRegression


def open_session(folder: Path, threads: int, device: str) -> Any:
    """Return a function from pieces and mask, (B, T), to logits and sketch; it always runs on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    encoder = ort.InferenceSession(str(folder / "encoder.onnx"), options, providers=["CPUExecutionProvider"])
    stored = np.load(folder / "control.npz", allow_pickle=False)
    model = LogisticRegression()
    model.coef_, model.intercept_, model.classes_ = stored["coefficients"], stored["intercepts"], stored["classes"]

    def run(feeds: Any) -> Any:
        embedding, sketch = encoder.run(["logits", "sketch"], dict(feeds))
        scores = model.decision_function(embedding)
        if scores.ndim == 1:  # two classes have one score
            scores = np.stack([-scores, scores], axis=1) / 2
        return scores.astype(np.float32), sketch

    return run
