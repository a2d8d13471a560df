"""Impossible combinations are refused with the nearest choice that works."""

import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from pipeline.errors import EvergreenError, InputError, collecting
from pipeline.learning.param_conflicts import cpu_flags, has_gpu, refuse_conflicts, refuse_precision
from pipeline.network.base_model import base_folder, matrix_shapes
from pipeline.params import Params


def changed(params: Params, section: str, **changes: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=changes)})


def conflicts(params: Params) -> list[EvergreenError]:
    errors: list[EvergreenError] = []
    with collecting(errors):
        refuse_conflicts(params, base_folder(params.model), has_gpu=False, cpu_flags=set())
    return errors


def refused(params: Params, section: str, **changes: Any) -> EvergreenError:
    (error,) = conflicts(changed(params, section, **changes))
    return error


def test_the_shipped_settings_work_together(params: Params) -> None:
    assert conflicts(params) == []


@pytest.mark.parametrize(
    ("flags", "nearest"), [({"avx2"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16"), ({"bf16"}, "bf16")]
)
def test_fp16_needs_a_gpu_and_the_answer_names_what_this_cpu_can_do(flags: set[str], nearest: str) -> None:
    with pytest.raises(InputError, match=f"needs a GPU(.|\n)*nearest that works here: {nearest}"):
        refuse_precision("fp16", has_gpu=False, cpu_flags=flags)
    refuse_precision("fp16", has_gpu=True, cpu_flags=flags)
    refuse_precision("bf16", has_gpu=False, cpu_flags=flags)


@pytest.mark.parametrize(("targets", "near"), [("q_proj", "query"), ("query, vlaue", "value"), ("self.querry", "query")])
def test_a_target_module_that_the_base_lacks(targets: str, near: str, params: Params) -> None:
    error = refused(params, "model", lora_targets=targets)
    assert f"did you mean `{near}`" in error.do
    assert "all-linear, dense, key, position_embeddings, query" in error.do


@pytest.mark.parametrize("targets", ["all-linear", "query,value", "attention.output.dense", "query, dense"])
def test_target_modules_that_the_base_has(targets: str, params: Params) -> None:
    assert conflicts(changed(params, "model", lora_targets=targets)) == []


def test_more_trained_layers_than_the_base_has(params: Params) -> None:
    error = refused(params, "train", trained_layers=12)
    assert error.where == "params.yaml, train.trained_layers"
    assert "nearest that works: 6" in error.do


def test_every_conflict_is_reported_at_once(params: Params) -> None:
    errors = conflicts(changed(params, "train", encoder_lr=1e-5, bottom_lr=1e-4, trained_layers=12, precision="fp16"))
    keys = [error.where.removeprefix("params.yaml, train.") for error in errors]
    assert keys == ["precision", "bottom_lr", "trained_layers"]


def test_rates_that_fall_through_the_layers(params: Params) -> None:
    error = refused(params, "train", encoder_lr=1e-5, bottom_lr=1e-4)
    assert "nearest that works: 1e-05" in error.do


def test_consistency_without_dropout(params: Params) -> None:
    undropped = changed(params, "model", dropout=0.0, lora_dropout=0.0)
    assert "nearest that works: 0.0 (or: model.dropout: 0.1)" in refused(undropped, "train", consistency=1.0).do
    for dropout in ({"dropout": 0.1}, {"lora_dropout": 0.1}):
        dropping = changed(undropped, "model", **dropout)
        assert conflicts(changed(dropping, "train", consistency=1.0)) == []


def test_matrices_are_those_that_safetensors_reads(params: Params) -> None:
    path = base_folder(params.model) / "model.safetensors"
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.endswith(".weight") and len(file.get_slice(name).get_shape()) == 2]  # noqa: SIM118
    assert sorted(f"{name}.weight" for name in matrix_shapes(path)) == sorted(names)


def test_a_header_is_read_without_the_weights(tmp_path: Path) -> None:
    header = b'{"a.weight": {"dtype": "F32", "shape": [2, 2]}, "b.weight": {"shape": [2]}, "__metadata__": {}}'
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert list(matrix_shapes(tmp_path / "model.safetensors")) == ["a"]


def test_the_machine_is_read_from_the_kernel(tmp_path: Path) -> None:
    assert has_gpu(tmp_path) is False
    (tmp_path / "nvidia0").touch()
    assert has_gpu(tmp_path) is True
    assert cpu_flags(lambda: "processor: 0\nflags\t\t: fpu avx512_bf16\n") == {"fpu", "avx512_bf16"}
    assert cpu_flags(lambda: "Features\t: fp asimd bf16\n") == {"fp", "asimd", "bf16"}

    def unreadable() -> str:
        raise OSError

    assert cpu_flags(unreadable) == set()


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_base_cannot_be_trained_as_a_whole(bits: str, params: Params) -> None:
    error = refused(params, "model", method="full", quantise=bits)
    assert "none (or: method: lora)" in error.do
