"""Stage `reference`: profile the model's predictions on the test rows, which took no part in fitting or early stopping."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.data.corrupt import corrupt_texts
from pipeline.data.records import Example, labels_of, read_examples
from pipeline.errors import run_stage
from pipeline.held_out_outputs import HeldOutOutputs, load_held_out
from pipeline.home import find_home
from pipeline.output.plain_text import print_line
from pipeline.params import Reference as ReferenceSettings
from pipeline.params import flatten, load_params
from pipeline.reference_profile import Reference, save_reference
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.outputs import ModelOutputs
from pipeline.tracking.runs import stage_run


class ReferencePair(NamedTuple):
    """The reference on the original texts, and on the same texts corrupted."""

    original: Reference
    corrupted: Reference


def reference(classifier: Classifier, rows: list[Example], outputs: HeldOutOutputs, settings: ReferenceSettings) -> ReferencePair:
    """Profile the rows, cut at random into a calibrate half and an A/A half, with original and with corrupted texts.

    `outputs` are those of the original texts, which `evaluate` has computed.
    """
    texts = [row.text for row in rows]
    original = classifier.calibrated(texts, outputs.logits, outputs.sketch)
    corrupted = classifier.predict(corrupt_texts(texts, settings.mistyped, settings.kept_words, settings.seed))
    return ReferencePair(*(_profile(classifier.labels, rows, predictions, settings) for predictions in (original, corrupted)))


def _profile(labels: list[str], rows: list[Example], predictions: ModelOutputs, settings: ReferenceSettings) -> Reference:
    """Return the reference of `rows` with these predictions."""
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    return Reference(
        ids=np.array([row.id for row in rows]),
        labels=np.array(labels),
        probabilities=predictions.probabilities,
        sketch=predictions.sketch,
        pieces=predictions.pieces,
        pieces_per_word=predictions.pieces_per_word,
        correct=np.array(predictions.labels) == np.array(labels_of(rows)),
        calibrate=order < round(settings.calibrate_share * len(rows)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    classifier = Classifier(args.exported)
    with stage_run("reference", flatten(params.reference, "reference"), find_home(), continues=classifier.run_id) as run:
        rows = read_examples(args.split / "test.parquet")
        outputs = load_held_out(args.outputs, [row.id for row in rows])
        original, corrupted = reference(classifier, rows, outputs, params.reference)
        save_reference(args.out / "reference.npz", original, corrupted, np.array(labels_of(rows), dtype=np.str_))
        run.files(args.out)
    calibrate = int(original.calibrate.sum())
    print_line(f"{len(original.ids)} reference rows, {calibrate} of them for calibration → {args.out}/reference.npz")
    print_line(f"accuracy: {original.correct.mean():.1%}, on corrupted texts {corrupted.correct.mean():.1%}")


if __name__ == "__main__":
    run_stage(main)
