"""The base model's files: present, complete and pinned."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from pipeline.errors import EXIT_BAD_INPUT, InputError
from pipeline.network.base_model import REQUIRED_FILES, base_folder
from pipeline.params import Model, Params


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
