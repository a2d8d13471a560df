"""Refuses settings that are valid alone but impossible together, with this base model or on this machine; needs no torch.

Each error names the key and the nearest choice that works.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.errors import EvergreenError, InputError, collecting, raise_all
from pipeline.network.base_model import refuse_unknown_targets
from pipeline.params import Model, Params, Train

NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def refuse_conflicts(params: Params, base: Path | None, has_gpu: bool, cpu_flags: set[str]) -> None:
    """Raise `InputError` for every impossible combination; `base` is None while its files are not downloaded."""
    checks = [
        partial(refuse_precision, params.train.precision, has_gpu, cpu_flags),
        partial(refuse_rates, params.train),
        partial(refuse_training_quantised, params.model),
        partial(refuse_consistency_without_dropout, params.train, params.model),
    ]
    if base is not None:
        checks += [partial(refuse_too_many_layers, params.train, base), partial(refuse_unknown_targets, params.model, base)]
    errors: list[EvergreenError] = []
    for check in checks:
        with collecting(errors):
            check()
    raise_all(errors)


def refuse_precision(precision: str, has_gpu: bool, cpu_flags: set[str]) -> None:
    """Refuse fp16 without a GPU: a CPU would convert every number back and forth."""
    if precision == "fp16" and not has_gpu:
        nearest = "bf16" if cpu_flags & NATIVE_BF16 else "fp32"
        what = "`fp16` needs a GPU, and there is none"
        raise InputError("params.yaml, train.precision", what, f"the nearest that works here: {nearest} (or: auto)")


def refuse_rates(train: Train) -> None:
    """Refuse rates that fall from the lowest layer to the topmost."""
    if train.bottom_lr > train.encoder_lr:
        what = f"rates rise through the layers, and bottom_lr = {train.bottom_lr} is above encoder_lr = {train.encoder_lr}"
        raise InputError(
            "params.yaml, train.bottom_lr", what, f"the nearest that works: {train.encoder_lr}, the same for all layers"
        )


def refuse_training_quantised(model: Model) -> None:
    """Refuse full training of a quantised base: a gradient cannot update weights of 4 or 8 bits."""
    if model.method == "full" and model.quantise != "none":
        what = f"`quantise` = {model.quantise} freezes the base, and `method` = full trains it"
        raise InputError("params.yaml, model.quantise", what, "the nearest that works: none (or: method: lora)")


def refuse_consistency_without_dropout(train: Train, model: Model) -> None:
    """Refuse `consistency` without dropout: both passes would be equal."""
    if train.consistency and not (model.dropout or (model.lora_dropout and model.method == "lora")):
        what = f"`consistency` = {train.consistency} compares two passes that differ by dropout alone, and there is no dropout"
        raise InputError("params.yaml, train.consistency", what, "the nearest that works: 0.0 (or: model.dropout: 0.1)")


def refuse_too_many_layers(train: Train, base: Path) -> None:
    """Refuse to train more layers than the base model has."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    layers = config.get("num_hidden_layers", config.get("n_layers"))
    if layers and train.trained_layers != "all" and train.trained_layers > layers:
        what = f"`trained_layers` = {train.trained_layers}, and {base.name} has {layers}"
        raise InputError("params.yaml, train.trained_layers", what, f"the nearest that works: {layers} (or: all)")


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Return whether the kernel exposes an NVIDIA or AMD accelerator."""
    return any((devices / name).exists() for name in ("nvidia0", "kfd"))


def cpu_flags(read: Callable[[], str] = Path("/proc/cpuinfo").read_text) -> set[str]:
    """Return the CPU's feature flags as the kernel names them; empty if they cannot be read."""
    try:
        lines = read().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}
