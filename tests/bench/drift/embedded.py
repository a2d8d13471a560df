"""Embed the texts of the drift bench with the untouched base model, and cache the result in a folder.

The head is logistic regression on part of the rows, calibrated by a temperature: detectors are measured without a training run.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import fit_temperature, softmax
from pipeline.params import Model
from pipeline.runtime.text import word_count

BATCH, PROGRESS_STEP = 64, 1024


class Texts(NamedTuple):
    """Hold N texts; `unit` and `phase` are empty where the file has none."""

    text: NDArray[np.str_]
    label: NDArray[np.str_]
    embedding: NDArray[np.float32]  # (N, width), length 1
    sketch: NDArray[np.float16]  # (N, sketch_size)
    pieces: NDArray[np.int32]
    pieces_per_word: NDArray[np.float32]
    unit: NDArray[np.str_]
    phase: NDArray[np.str_]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Texts":
        """Return these rows of every column."""
        return Texts(*(column[rows] for column in self))


class Head(NamedTuple):
    """Classify embeddings."""

    labels: NDArray[np.str_]
    weights: NDArray[np.float64]  # (width, classes)
    bias: NDArray[np.float64]
    temperature: float

    def __call__(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities (N, classes) of embeddings (N, width)."""
        return softmax((embedding @ self.weights + self.bias) / self.temperature).astype(np.float32)


def load(path: Path, model: Model, cache: Path) -> Texts:
    """Return the rows of a csv or jsonl file that have distinct texts."""
    rows = _read(path)
    columns = [np.array([row.get(name, "") for row in rows]) for name in ("label", "unit", "phase")]
    return _embed_or_load([row["text"] for row in rows], columns, path.stem, model, cache)


def with_texts(texts: Texts, changed: Sequence[str], name: str, model: Model, cache: Path) -> Texts:
    """Return the same rows with other texts."""
    return _embed_or_load(changed, [texts.label, texts.unit, texts.phase], name, model, cache)


def _embed_or_load(texts: Sequence[str], columns: Sequence[NDArray[np.str_]], name: str, model: Model, cache: Path) -> Texts:
    """Embed the texts, or read them from the cache."""
    digest = hashlib.sha256(json.dumps([list(texts), model.base, model.sketch_size, model.sketch_seed]).encode()).hexdigest()[:16]
    cached = cache / f"{name}-{digest}.npz"
    if not cached.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(cached, **dict(zip(("embedding", "sketch", "pieces"), _embed(texts, name, model), strict=True)))
    arrays = np.load(cached)
    per_word = ((arrays["pieces"] - 2) / np.array([word_count(text) for text in texts])).astype(np.float32)
    label, unit, phase = columns
    return Texts(np.array(texts), label, arrays["embedding"], arrays["sketch"], arrays["pieces"], per_word, unit, phase)


def fit_head(texts: Texts, seed: int) -> Head:
    """Fit a logistic regression on nine tenths of the rows, and its temperature on the rest."""
    from sklearn.linear_model import LogisticRegression

    held = np.random.default_rng(seed).random(len(texts.text)) < 0.1
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(texts.embedding[~held], texts.label[~held])
    labels, truth = np.unique(texts.label, return_inverse=True)
    assert list(labels) == list(fitted.classes_)
    logits = texts.embedding[held].astype(np.float64) @ fitted.coef_.T + fitted.intercept_
    return Head(labels, fitted.coef_.T, fitted.intercept_, fit_temperature(logits, truth[held]).value)


def _read(path: Path) -> list[dict[str, str]]:
    """Return the rows with distinct texts, in the file's order."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {"text": row["text"], "label": row.get("category") or row.get("intents") or ""} for row in csv.DictReader(file)
            ]
    return list({row["text"]: row for row in rows}.values())


def _embed(texts: Sequence[str], name: str, model: Model) -> tuple[NDArray[np.float32], NDArray[np.float16], NDArray[np.int32]]:
    import torch
    from rich.progress import track
    from torch.nn import functional as F

    from pipeline.network.base_model import base_folder
    from pipeline.network.classifier import CosineHead, TextClassifier, load_encoder, sketch_projection
    from pipeline.network.inference import infer_in_batches
    from pipeline.runtime.pieces import load_tokenizer, to_pieces

    tokenizer = load_tokenizer(base_folder(model), model.max_pieces)
    pieces = to_pieces(tokenizer, list(texts))
    frozen = TextClassifier(load_encoder(base_folder(model)), CosineHead(1, 1, 1.0)).eval()
    parts = [pieces[at : at + PROGRESS_STEP] for at in range(0, len(pieces), PROGRESS_STEP)]
    progress = track(parts, description=f"{len(texts)} texts of {name}")
    embedded = [infer_in_batches(frozen.embed, part, batch_size=BATCH, precision="fp32") for part in progress]
    pooled = F.normalize(torch.cat(embedded), dim=-1)
    sketch = (pooled @ sketch_projection(pooled.shape[1], model)).numpy().astype(np.float16)
    return pooled.numpy(), sketch, np.array([len(row) for row in pieces], dtype=np.int32)
