"""What memory a training took, and what of it is known by name."""

import resource

import torch
from torch import Tensor, nn


def memory_by_part(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes: the most ever held (on a GPU by tensors, else by the process), and its parts; `rest` is activations and all else."""
    frozen = sum(_bytes(p) for p in model.parameters() if not p.requires_grad)
    trained = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    moments = sum(_bytes(value) for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    known = {"frozen": frozen, "trained": trained, "gradients": trained, "optimizer": moments}
    return {"peak": peak_bytes(), **known, "rest": peak_bytes() - sum(known.values())}


def peak_bytes() -> int:
    """By tensors on the GPU, or resident in this process since it began; on Linux `ru_maxrss` is in KiB."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
