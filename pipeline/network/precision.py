"""Which arithmetic to compute in; trained parameters, optimiser state and the loss stay in fp32."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import InputError

Precision = Literal["bf16", "fp16", "fp32"]
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TENSOR_CORE_MULTIPLE = 8  # of every side of a product, in 16 bits
MOVES = ("view", "copy", "empty", "zeros", "ones", "transpose", "permute", "expand", "slice", "select", "detach", "clone", "fill")


class PrecisionChoice(NamedTuple):
    """The precision, and the seconds a step took in each that was measured."""

    precision: Precision
    seconds: dict[Precision, float]


def choose_precision(wanted: str, seconds: Callable[[Precision], float]) -> PrecisionChoice:
    """`auto` measures what the hardware computes natively and takes the fastest; emulated formats are not even measured.

    Raises `InputError` for fp16 without a GPU: its gradients vanish without a scaler, and no CPU here multiplies it faster.
    """
    possible = native_precisions()
    if wanted == "auto":
        measured = {one: seconds(one) for one in possible} if len(possible) > 1 else {}
        return PrecisionChoice(min(measured, key=lambda one: measured[one]) if measured else possible[0], measured)
    if wanted == "fp16" and not torch.cuda.is_available():
        near = possible[-1]
        raise InputError("params.yaml, train.precision = fp16", "fp16 needs a GPU, and none is seen here", f"set it to {near}")
    return PrecisionChoice(next(one for one in DTYPES if one == wanted), {})


def native_precisions() -> list[Precision]:
    """fp32, and the 16 bits that this machine multiplies natively: bf16 before fp16, which needs its gradients scaled."""
    if has_bf16():
        return ["fp32", "bf16"]
    return ["fp32", "fp16"] if torch.cuda.is_available() else ["fp32"]


def has_bf16() -> bool:
    """Whether the GPU, or the CPU (AVX512_BF16, AMX), multiplies bf16 natively."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    """Products in this precision, what needs more of it in fp32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device, DTYPES[precision])


def padding_multiple(precision: Precision) -> int:
    """What lengths are padded to: Tensor Cores want multiples of 8 in 16 bits, a CPU wants no padding."""
    return TENSOR_CORE_MULTIPLE if torch.cuda.is_available() and precision != "fp32" else 1


def fp32_operations(call: Callable[[], object]) -> list[str]:
    """Operations whose result was fp32 while `call` ran, moves and casts left out: under autocast, what fell back to it."""
    with _Seen() as seen:
        call()
    return sorted(name for name in seen.names if not any(move in name for move in MOVES))


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
