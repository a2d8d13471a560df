"""The base model's files: present, complete and pinned."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pipeline.errors import EXIT_BAD_INPUT, InputError
from pipeline.network.base_model import REQUIRED_FILES, base_folder, check_sizes
from pipeline.params import Model, Params
from tests.refusals import error_of


@pytest.fixture
def model(params: Params) -> Model:
    return params.model


@pytest.fixture
def local(model: Model, tmp_path: Path) -> Path:
    """Return a local folder with the packaged model."""
    packaged = base_folder(model)
    for path in packaged.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_the_packaged_model_is_the_pinned_one(model: Model) -> None:
    folder = base_folder(model)
    assert all((folder / name).is_file() for name in REQUIRED_FILES)


def test_other_weights_than_the_pinned_ones_are_refused_with_both_digests(model: Model) -> None:
    with pytest.raises(InputError) as refused:
        base_folder(model.model_copy(update={"weights_sha256": "0" * 64}))
    assert model.weights_sha256 in str(refused.value)
    assert "0" * 64 in str(refused.value)
    assert refused.value.exit_code == EXIT_BAD_INPUT


@pytest.mark.parametrize("pin", ["any", "the shipped pin"])
def test_a_local_folder_serves_as_base(model: Model, local: Path, pin: str) -> None:
    pinned = {} if pin == "the shipped pin" else {"weights_sha256": pin}
    assert base_folder(model.model_copy(update={"base": str(local), **pinned})) == local


def test_changed_weights_in_a_local_folder_are_refused(model: Model, local: Path) -> None:
    (local / "model.safetensors").unlink()
    (local / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(InputError, match="SHA-256"):
        base_folder(model.model_copy(update={"base": str(local)}))


def test_any_accepts_changed_weights(model: Model, local: Path) -> None:
    (local / "model.safetensors").unlink()
    (local / "model.safetensors").write_bytes(b"other weights")
    assert base_folder(model.model_copy(update={"base": str(local), "weights_sha256": "any"})) == local


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_folder_that_lacks_a_file_is_refused_and_the_file_named(model: Model, local: Path, name: str) -> None:
    (local / name).unlink()
    with pytest.raises(InputError, match=name):
        base_folder(model.model_copy(update={"base": str(local)}))


@pytest.mark.parametrize("base", ["nobody/no-such-model", "no-such-model", "not a name at all", "a/b/c"])
def test_an_unknown_base_is_a_clear_error_when_the_hub_is_unreachable(
    model: Model, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment once, at import
    with pytest.raises(InputError, match="what to do: name a folder, a reachable hub id"):
        base_folder(model.model_copy(update={"base": base}))


def small_base(folder: Path, *, config: dict[str, Any], positions: int, embedded: int, pieces: int) -> Path:
    """Write a base model of these sizes: its tables, and a tokenizer with this many words."""
    save_file(
        {
            "embeddings.position_embeddings.weight": torch.zeros(positions, 4),
            "embeddings.word_embeddings.weight": torch.zeros(embedded, 4),
        },
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer(WordLevel({f"w{n}": n for n in range(pieces)})).save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    ("config", "most"),
    [({"model_type": "bert", "pad_token_id": 0}, 40), ({"model_type": "roberta", "pad_token_id": 1}, 38)],
    ids=["bert", "roberta: the first position follows that of the padding"],
)
def test_more_pieces_than_positions_are_refused_with_the_nearest_that_works(
    model: Model, tmp_path: Path, config: dict[str, Any], most: int
) -> None:
    folder = small_base(tmp_path, config=config, positions=40, embedded=10, pieces=10)
    assert error_of(check_sizes, folder, model.model_copy(update={"max_pieces": most})) == ""
    with pytest.raises(InputError, match=f"{most + 1} tokens are more than the {most} positions") as refused:
        check_sizes(folder, model.model_copy(update={"max_pieces": most + 1}))
    assert refused.value.do == f"the nearest that works: {most}"


def test_a_base_that_computes_its_positions_has_no_limit(model: Model, tmp_path: Path) -> None:
    save_file({"embeddings.tok_embeddings.weight": torch.zeros(10, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    Tokenizer(WordLevel({"w0": 0})).save(str(tmp_path / "tokenizer.json"))
    assert error_of(check_sizes, tmp_path, model.model_copy(update={"max_pieces": 8192})) == ""


def test_a_tokenizer_with_more_pieces_than_embeddings_is_refused_with_both_sizes(model: Model, tmp_path: Path) -> None:
    folder = small_base(tmp_path, config={}, positions=512, embedded=10, pieces=12)
    with pytest.raises(InputError, match="its tokenizer has 12 tokens, its embeddings have 10 rows"):
        check_sizes(folder, model)


def test_the_packaged_model_fits_its_tokenizer_up_to_its_positions(model: Model) -> None:
    assert error_of(check_sizes, base_folder(model), model.model_copy(update={"max_pieces": 512})) == ""
    with pytest.raises(InputError, match="the 512 positions"):
        check_sizes(base_folder(model), model.model_copy(update={"max_pieces": 1024}))


def test_weights_that_are_a_pointer_of_git_lfs_are_named(model: Model, local: Path) -> None:
    (local / "model.safetensors").unlink()
    (local / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        check_sizes(local, model)
