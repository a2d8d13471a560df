"""A trained model on disk and back."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import build_classifier, restore_classifier, trainable_state
from pipeline.network.trained_model import load_trained, save_trained
from pipeline.params import Model, Params

LABELS = ["zebra", "ant", "zażółć"]
IDS, MASK = torch.tensor([[101, 2073, 102]]), torch.ones(1, 3, dtype=torch.int64)


@pytest.fixture(scope="module")
def model(params: Params) -> Model:
    return params.model.model_copy(update={"lora_rank": 2})


@pytest.fixture(scope="module")
def state(model: Model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    fresh = trainable_state(build_classifier(base_folder(model), len(LABELS), model))
    return {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}


@pytest.mark.parametrize("run_id", ["0123abc", None])
def test_a_saved_model_answers_as_before(
    run_id: str | None, model: Model, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_trained(tmp_path / "model", state, LABELS, {"mlflow_run_id": run_id})
    loaded = load_trained(tmp_path / "model", model)
    with torch.inference_mode():
        expected = restore_classifier(base_folder(model), state, len(LABELS), model)(IDS, MASK)
        assert torch.equal(loaded.classifier(IDS, MASK), expected)
    assert (loaded.labels, loaded.run_id) == (LABELS, run_id)
    assert not loaded.classifier.training
    assert len(loaded.tokenizer.encode("parcel " * 500).ids) == model.max_pieces


def test_only_whole_files_are_left_behind(model: Model, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_trained(tmp_path, state, LABELS, {"mlflow_run_id": None})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.safetensors", "labels.json", "origin.json"]
    assert json.loads((tmp_path / "labels.json").read_text(encoding="utf-8")) == LABELS


def test_a_model_saved_with_other_classes_is_refused(model: Model, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_trained(tmp_path, state, LABELS[:2], {"mlflow_run_id": None})
    with pytest.raises(InputError, match=r"head\.weight"):
        load_trained(tmp_path, model)
