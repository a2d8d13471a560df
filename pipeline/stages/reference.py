"""Stage `reference`: profile the model's predictions on the test rows, which took no part in fitting or early stopping."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data.corrupt import corrupt_texts
from pipeline.data.records import Example, labels_of, read_examples
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.metrics import softmax
from pipeline.network.classifier import ExportedModel, sketch_projection
from pipeline.network.inference import infer_in_batches
from pipeline.network.trained_model import TrainedModel, load_trained
from pipeline.params import Model, flatten, load_params
from pipeline.params import Reference as ReferenceSettings
from pipeline.reference_profile import Reference, save_reference
from pipeline.runtime.pieces import to_pieces
from pipeline.runtime.text import word_count
from pipeline.tracking import stage_run


class ReferencePair(NamedTuple):
    """The reference on the original texts, and on the same texts corrupted."""

    original: Reference
    corrupted: Reference


def reference(
    trained: TrainedModel, rows: list[Example], temperature: float, model: Model, settings: ReferenceSettings
) -> ReferencePair:
    """Profile the rows, cut at random into a calibrate half and an A/A half, with original and with corrupted texts."""
    texts = [row.text for row in rows]
    corrupted = corrupt_texts(texts, settings.mistyped, settings.kept_words, settings.seed)
    return ReferencePair(*(_profile(trained, rows, version, temperature, model, settings) for version in (texts, corrupted)))


def _profile(
    trained: TrainedModel, rows: list[Example], texts: list[str], temperature: float, model: Model, settings: ReferenceSettings
) -> Reference:
    """Return the reference of `rows` with `texts` in place of their own."""
    pieces = to_pieces(trained.tokenizer, texts)
    classes, width = trained.classifier.head.weight.shape
    sketching = ExportedModel(trained.classifier, sketch_projection(width, model)).eval()

    def logits_and_sketch(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.cat(sketching(input_ids, attention_mask), dim=1)

    outputs = infer_in_batches(logits_and_sketch, pieces, batch_size=settings.batch_size, precision="fp32").numpy()
    probabilities = softmax(outputs[:, :classes] / temperature).astype(np.float32)
    lengths = np.array([len(row) for row in pieces], dtype=np.int32)
    words = np.array([word_count(text) for text in texts], dtype=np.float32)
    predicted = np.array(trained.labels)[probabilities.argmax(axis=1)]
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    return Reference(
        ids=np.array([row.id for row in rows]),
        labels=np.array(trained.labels),
        probabilities=probabilities,
        sketch=outputs[:, classes:].astype(np.float16),
        pieces=lengths,
        pieces_per_word=((lengths - 2) / words).astype(np.float32),
        correct=predicted == np.array(labels_of(rows)),
        calibrate=order < round(settings.calibrate_share * len(rows)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--temperature", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    trained = load_trained(args.model, params.model)
    temperature = json.loads(args.temperature.read_text())["temperature"]
    with stage_run("reference", flatten(params.reference, "reference"), find_home(), continues=trained.run_id) as run:
        rows = read_examples(args.split / "test.parquet")
        original, corrupted = reference(trained, rows, temperature, params.model, params.reference)
        save_reference(args.out / "reference.npz", original, corrupted)
        run.files(args.out)
    calibrate = int(original.calibrate.sum())
    print(f"{len(original.ids)} reference rows, {calibrate} of them for calibration → {args.out}/reference.npz")
    print(f"accuracy: {original.correct.mean():.1%}, on corrupted texts {corrupted.correct.mean():.1%}")


if __name__ == "__main__":
    run_stage(main)
