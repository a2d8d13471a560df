"""Fixtures of the Python API: a package of a small model, and a project whose base model is tiny."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from pipeline.params import Params
from pipeline.runtime.text import fold_to_words
from tests.conftest import ROOT
from tests.monitoring.retrain.gate.small_models import fit, load_rows, write_package
from tests.pipeline.learning.toy import MONEY, PARCEL

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TEXTS, LABELS = [*PARCEL, *MONEY], ["parcel"] * len(PARCEL) + ["money"] * len(MONEY)
SMALL = {  # settings under which the tiny base learns twenty texts in a second
    "model__base": "base",
    "model__weights_sha256": "any",
    "model__max_pieces": 24,
    "model__lora_rank": 2,
    "train__epochs": 2,
    "train__batch_size": 8,
    "train__precision": "fp32",
    "split__val_share": 0.25,
    "evaluate__bootstrap_resamples": 20,
}


@pytest.fixture(scope="session")
def package(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package of twenty labels, without PyTorch."""
    return write_package(fit(load_rows(params.split).train[:400]), tmp_path_factory.mktemp("package"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder outside of every project; the home is empty."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def small_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Path) -> Path:
    """Change to a project with a commit, a tiny base model and an empty MLflow store."""
    project = tmp_path / "project"
    (project / "pipeline").mkdir(parents=True)
    (project / "dvc.yaml").write_text("stages: {}\n")
    (project / "data").mkdir()
    for name in ("params.yaml", "data/no_out_of_scope.csv"):
        shutil.copy(ROOT / name, project / name)
    save_tiny_base(project / "base", [*TEXTS, "one two three"])
    for command in (["init", "--quiet"], ["add", "dvc.yaml"], ["commit", "--quiet", "--message", "start"]):
        identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
        subprocess.run(["git", *identity, *command], cwd=project, check=True)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copy(mlflow_store, home / "mlflow.db")
    monkeypatch.chdir(project)
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    return project


def save_tiny_base(folder: Path, texts: Sequence[str]) -> None:
    """Write a randomly initialised BERT that knows the words of these texts."""
    words = sorted({word for text in texts for word in fold_to_words(text).split()})
    ids = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    torch.manual_seed(5)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(ids), max_position_embeddings=40, initializer_range=0.3, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def set_params(project: Path, **sections: dict[str, object]) -> None:
    """Change values of the project's params.yaml."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    for name, section in sections.items():
        values[name] |= section
    (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
