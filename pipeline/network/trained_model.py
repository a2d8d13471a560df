"""The trained model on disk: `adapter.safetensors` (adapters or encoder, and head), `labels.json` and `origin.json`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.atomic_write import atomic_write
from pipeline.data.records import write_json
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import TextClassifier, restore_classifier
from pipeline.params import Model
from pipeline.runtime.pieces import load_tokenizer


class TrainedModel(NamedTuple):
    """A trained classifier with its labels, tokenizer and origin."""

    classifier: TextClassifier  # in evaluation mode, adapters not merged
    labels: list[str]  # class index → label
    tokenizer: Tokenizer
    origin: dict[str, Any]  # MLflow run, git commit and data digest of the training

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run, None if MLflow was unreachable."""
        run_id: str | None = self.origin["mlflow_run_id"]
        return run_id


def save_trained(folder: Path, state: dict[str, Tensor], labels: list[str], origin: dict[str, Any]) -> None:
    """Write the three files, each atomically."""
    with atomic_write(folder / "adapter.safetensors") as part:
        save_file(state, part)
    write_json(folder / "labels.json", labels)
    write_json(folder / "origin.json", origin)


def load_trained(folder: Path, model: Model) -> TrainedModel:
    """Load the trained classifier and its base model."""
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    base = base_folder(model)
    classifier = restore_classifier(base, load_file(folder / "adapter.safetensors"), len(labels), model)
    origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    return TrainedModel(classifier, labels, load_tokenizer(base, model.max_pieces), origin)
