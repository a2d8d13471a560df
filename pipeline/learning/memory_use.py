"""Peak memory of a training run, and its breakdown."""

import resource

import torch
from torch import Tensor, nn


def memory_by_part(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Return the peak in bytes (tensors on a GPU, else the whole process) and its parts; `rest` is mostly activations."""
    frozen = sum(_bytes(p) for p in model.parameters() if not p.requires_grad)
    trained = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    moments = sum(_bytes(value) for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    known = {"frozen": frozen, "trained": trained, "gradients": trained, "optimizer": moments}
    return {"peak": peak_bytes(), **known, "rest": peak_bytes() - sum(known.values())}


def peak_bytes() -> int:
    """Return the peak bytes of tensors on the GPU, or the peak resident size of this process (`ru_maxrss`, in KiB on Linux)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
