"""The choice of precision, and operations that fall back to fp32."""

import pytest
import torch

from pipeline.errors import InputError
from pipeline.network import precision
from pipeline.network.precision import (
    Precision,
    PrecisionChoice,
    autocast,
    choose_precision,
    fp32_operations,
    native_precisions,
    padding_multiple,
)


def untimed(_: Precision) -> float:
    pytest.fail("nothing should be measured")


def on_a_cpu(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "has_bf16", lambda: bf16)


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("wanted", ["bf16", "fp32"])
def test_a_named_precision_is_taken_on_any_hardware(wanted: str, has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cpu(monkeypatch, has_bf16)
    assert choose_precision(wanted, untimed) == PrecisionChoice(wanted, {})


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(2.0, 1.0, "bf16"), (1.0, 2.0, "fp32")])
def test_auto_takes_the_faster_as_measured(fp32: float, bf16: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cpu(monkeypatch, bf16=True)
    seconds = {"fp32": fp32, "bf16": bf16}
    assert choose_precision("auto", seconds.__getitem__) == PrecisionChoice(chosen, seconds)


def test_auto_does_not_measure_what_the_hardware_only_emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cpu(monkeypatch, bf16=False)
    assert choose_precision("auto", untimed) == PrecisionChoice("fp32", {})


@pytest.mark.parametrize(("bf16", "near"), [(True, "bf16"), (False, "fp32")])
def test_fp16_without_a_gpu_is_refused_with_the_nearest_choice(bf16: bool, near: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cpu(monkeypatch, bf16)
    with pytest.raises(InputError, match=f"set it to {near}"):
        choose_precision("fp16", untimed)


@pytest.mark.parametrize(("bf16", "expected"), [(True, ["fp32", "bf16"]), (False, ["fp32", "fp16"])])
def test_a_gpu_without_bf16_has_fp16(bf16: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision, "has_bf16", lambda: bf16)
    assert native_precisions() == expected


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),  # Arm
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_cpu_has_bf16_when_it_multiplies_it_natively(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.has_bf16() is native


@pytest.mark.parametrize(
    ("gpu", "wanted", "multiple"), [(True, "bf16", 8), (True, "fp16", 8), (True, "fp32", 1), (False, "bf16", 1)]
)
def test_lengths_are_multiples_of_8_where_tensor_cores_multiply(
    gpu: bool, wanted: Precision, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: gpu)
    assert padding_multiple(wanted) == multiple


def test_what_falls_back_to_fp32_is_listed() -> None:
    x, weight = torch.randn(4, 8), torch.randn(8, 8)

    def step() -> None:
        with autocast("cpu", "bf16"):
            product = x @ weight  # bf16
            torch.nn.functional.layer_norm(product.float(), (8,)).exp()

    assert fp32_operations(step) == ["exp", "native_layer_norm"]
    assert "mm" in fp32_operations(lambda: x @ weight)
