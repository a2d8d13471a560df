"""Which arithmetic is chosen."""

import pytest

from pipeline.learning import precision


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("wanted", ["bf16", "fp32"])
def test_a_named_precision_is_taken_whatever_the_hardware(wanted: str, has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: has_bf16)
    assert precision.choose(wanted) == wanted


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_follows_the_hardware(has_bf16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: has_bf16)
    assert precision.choose("auto") == chosen


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
