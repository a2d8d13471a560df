"""Which arithmetic to compute in; parameters, optimiser state and the loss stay in fp32."""

from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]


def choose(wanted: str) -> Precision:
    """`auto` takes bf16 where the hardware multiplies it natively, else fp32: emulated bf16 is slower than fp32."""
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "fp32"
    return "bf16" if has_bf16() else "fp32"


def has_bf16() -> bool:
    """Whether the GPU, or the CPU (AVX512_BF16, AMX), multiplies bf16 natively."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
