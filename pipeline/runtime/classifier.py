"""Loads an exported model (`model.onnx`, `tokenizer.json`, `model.json`) and predicts labels for texts."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .outputs import ModelOutputs
from .pieces import load_tokenizer, to_pieces
from .sessions import Floats, Session, open_session
from .text import clean, word_count


class Classifier:
    """Predicts with an exported model. `session` is by default ONNX Runtime in fp32, which is thread-safe."""

    def __init__(self, folder: Path, *, session: Session | None = None, threads: int = 0) -> None:
        settings = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.labels: list[str] = settings["labels"]
        self.temperature: float = settings["temperature"]
        self.run_id: str | None = settings.get("origin", {}).get("mlflow_run_id")
        self.tokenizer = load_tokenizer(folder, settings["max_pieces"])
        self.session = session or open_session(folder, "onnxruntime-fp32", threads)

    def predict(self, texts: Sequence[str]) -> ModelOutputs:
        """Clean and tokenise the texts, run the model and calibrate its probabilities."""
        cleaned = [clean(text) for text in texts]
        pieces = to_pieces(self.tokenizer, cleaned)
        return self._outputs(cleaned, pieces, *self.run(pieces))

    def calibrated(self, texts: Sequence[str], logits: Floats, sketch: Floats) -> ModelOutputs:
        """Return what `predict` does, from logits and sketches that were computed for these texts before."""
        cleaned = [clean(text) for text in texts]
        return self._outputs(cleaned, to_pieces(self.tokenizer, cleaned), logits, sketch)

    def _outputs(self, cleaned: Sequence[str], pieces: Sequence[list[int]], logits: Floats, sketch: Floats) -> ModelOutputs:
        probabilities = softmax(logits / self.temperature)
        lengths = np.array([len(row) for row in pieces], dtype=np.int32)
        words = np.array([word_count(text) for text in cleaned], dtype=np.float32)
        labels = [self.labels[i] for i in probabilities.argmax(axis=1)]
        return ModelOutputs(labels, probabilities, sketch.astype(np.float16), lengths, ((lengths - 2) / words).astype(np.float32))

    def run(self, pieces: Sequence[list[int]]) -> tuple[Floats, Floats]:
        """Return logits (N, classes) and sketches (N, sketch_size) for the piece ids of N texts, in their order."""
        if pieces:
            return self.session(pieces)
        logits, sketch = self.session([[0, 0]])
        return logits[:0], sketch[:0]


def softmax(logits: Floats) -> Floats:
    """Return the softmax of (N, classes) logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
