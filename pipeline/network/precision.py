"""The compute precision; trained parameters, optimiser state and the loss stay in fp32."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import InputError

Precision = Literal["bf16", "fp16", "fp32"]
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TENSOR_CORE_MULTIPLE = 8  # of matrix dimensions, in 16 bits
COPIES = (
    "view",
    "copy",
    "empty",
    "zeros",
    "ones",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "detach",
    "clone",
    "fill",
)


class PrecisionChoice(NamedTuple):
    """The precision, and the measured seconds of a step in each candidate."""

    precision: Precision
    seconds: dict[Precision, float]


def choose_precision(wanted: str, seconds: Callable[[Precision], float]) -> PrecisionChoice:
    """Choose a precision; `auto` measures those that the hardware computes natively and takes the fastest.

    Raises `InputError` for fp16 without a GPU: its gradients vanish without a scaler, and a CPU does not multiply it faster.
    """
    possible = native_precisions()
    if wanted == "auto":
        measured = {precision: seconds(precision) for precision in possible} if len(possible) > 1 else {}
        return PrecisionChoice(min(measured, key=measured.__getitem__) if measured else possible[0], measured)
    if wanted == "fp16" and not torch.cuda.is_available():
        near = possible[-1]
        raise InputError("params.yaml, train.precision = fp16", "fp16 needs a GPU, and there is none", f"set it to {near}")
    return PrecisionChoice(next(precision for precision in DTYPES if precision == wanted), {})


def native_precisions() -> list[Precision]:
    """Return fp32 and the 16-bit format that this machine multiplies natively; bf16 over fp16, which needs a loss scaler."""
    if has_bf16():
        return ["fp32", "bf16"]
    return ["fp32", "fp16"] if torch.cuda.is_available() else ["fp32"]


def has_bf16() -> bool:
    """Return whether the GPU, or the CPU (AVX512_BF16, AMX), multiplies bf16 natively."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    """Return the autocast context for this precision; numerically sensitive operations stay in fp32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device, DTYPES[precision])


def padding_multiple(precision: Precision) -> int:
    """Return the multiple to pad lengths to: 8 for Tensor Cores in 16 bits, 1 elsewhere."""
    return TENSOR_CORE_MULTIPLE if torch.cuda.is_available() and precision != "fp32" else 1


def fp32_operations(call: Callable[[], object]) -> list[str]:
    """Return the operations with an fp32 result while `call` ran, copies and casts left out: autocast's fallbacks."""
    with _Fp32Recorder() as recorder:
        call()
    return sorted(name for name in recorder.names if not any(copy in name for copy in COPIES))


class _Fp32Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(first, torch.Tensor) and first.dtype == torch.float32:
            self.names.add(func.overloadpacket._qualified_op_name.removeprefix("aten::"))
        return result
