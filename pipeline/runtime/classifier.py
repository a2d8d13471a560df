"""An exported model: a folder with `model.onnx`, `tokenizer.json`, `model.json` becomes a function from texts to predictions."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .batches import micro_batches, pad
from .text import clean, word_count

Floats = NDArray[np.float32]
MODEL_FILES = ("model.onnx", "tokenizer.json", "model.json")


class Predictions(NamedTuple):
    """One row a text, in the order asked."""

    labels: list[str]
    probabilities: Floats  # (N, classes), calibrated
    sketch: NDArray[np.float16]  # (N, sketch_size)
    pieces: NDArray[np.int32]  # (N,) length in pieces, special ones included
    pieces_per_word: Floats  # (N,)


class Classifier:
    """Loads once, answers many times; safe to call from several threads."""

    def __init__(self, folder: Path, *, threads: int = 0, token_budget: int = 2048) -> None:
        settings = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.labels: list[str] = settings["labels"]
        self.temperature: float = settings["temperature"]
        self.token_budget = token_budget
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(settings["max_pieces"])
        self.tokenizer.no_padding()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads  # 0: all cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
        self.session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def predict(self, texts: Sequence[str]) -> Predictions:
        """Clean, tokenise, run in micro-batches of like length, calibrate."""
        cleaned = [clean(text) for text in texts]
        pieces = [encoding.ids for encoding in self.tokenizer.encode_batch(cleaned)]
        logits, sketch = self.run(pieces)
        probabilities = softmax(logits / self.temperature)
        lengths = np.array([len(own) for own in pieces], dtype=np.int32)
        words = np.array([word_count(text) for text in cleaned], dtype=np.float32)
        labels = [self.labels[i] for i in probabilities.argmax(axis=1)]
        return Predictions(labels, probabilities, sketch.astype(np.float16), lengths, ((lengths - 2) / words).astype(np.float32))

    def run(self, pieces: Sequence[list[int]]) -> tuple[Floats, Floats]:
        """Piece ids of N texts → logits (N, classes) and sketches (N, sketch_size), in their order."""
        logits, sketch = (np.empty((len(pieces), output.shape[1]), dtype=np.float32) for output in self.session.get_outputs())
        for rows in micro_batches([len(own) for own in pieces], self.token_budget):
            logits[rows], sketch[rows] = self.session.run(["logits", "sketch"], pad([pieces[row] for row in rows]))
        return logits, sketch


def model_digest(folder: Path) -> str:
    """SHA-256 over the model's files: equal for equal answers, wherever the folder lies."""
    whole = hashlib.sha256()
    for name in MODEL_FILES:
        whole.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return whole.hexdigest()


def softmax(logits: Floats) -> Floats:
    """(N, classes) → rows that sum to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
