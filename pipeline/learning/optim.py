"""Optimisers and parameter groups: layers from the bottom up and the head, each with its learning rate."""

import re
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pipeline.params import Train, rates_by_pattern

LAYER = re.compile(r"\.(?:layer|layers|h|block|blocks)\.(\d+)\.")


class ParameterGroup(NamedTuple):
    """Parameters with one peak rate and one weight decay."""

    name: str  # head | embeddings | layer 3 | encoder (one rate for all layers)
    peak: float
    decay: float


def layer_number(name: str) -> int | None:
    """Return the number of the encoder layer that a parameter belongs to, or None."""
    match = LAYER.search(name)
    return int(match[1]) if match else None


def parameter_group(name: str, parameter: Tensor, layers: int, train: Train) -> ParameterGroup:
    """Return the group of a parameter; rates rise geometrically from `bottom_lr` to `encoder_lr` (Howard & Ruder 2018).

    The randomly initialised head uses `head_lr`. Head, norms and biases have no weight decay. A matching pattern of `lr_rules`
    takes precedence.
    """
    decay = 0.0 if parameter.ndim < 2 or name.startswith("head.") else train.weight_decay
    for pattern, rate in rates_by_pattern(train.lr_rules).items():
        if fnmatchcase(name, pattern):
            return ParameterGroup(pattern, rate, decay)
    if name.startswith("head."):
        return ParameterGroup("head", train.head_lr, decay)
    if train.bottom_lr == train.encoder_lr:
        return ParameterGroup("encoder", train.encoder_lr, decay)
    layer = layer_number(name)
    if layer is None:
        group, peak = ("embeddings", train.bottom_lr) if "embed" in name else ("top", train.encoder_lr)
        return ParameterGroup(group, peak, decay)
    height = layer / max(1, layers - 1)
    return ParameterGroup(f"layer {layer}", train.bottom_lr * (train.encoder_lr / train.bottom_lr) ** height, decay)


def parameter_groups(model: nn.Module, train: Train) -> dict[ParameterGroup, list[nn.Parameter]]:
    """Return the trainable parameters by group, bottom first."""
    layers = 1 + max((layer_number(name) or 0 for name, _ in model.named_parameters()), default=0)
    groups: dict[ParameterGroup, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(parameter_group(name, parameter, layers, train), []).append(parameter)
    return groups


def peak_rates(model: nn.Module, train: Train) -> dict[str, float]:
    """Return the peak rate of each group by its name."""
    return {group.name: group.peak for group in parameter_groups(model, train)}


def make_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Return the optimiser that params name, over the trainable parameters; `set_rates` changes its rates."""
    groups = [
        {"params": parameters, "lr": group.peak, "peak": group.peak, "weight_decay": group.decay}
        for group, parameters in parameter_groups(model, train).items()
    ]
    betas = (train.beta1, train.beta2)
    match train.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, betas=betas)
        case "lion":
            return Lion(groups, betas)
        case _:
            return DecoupledSGD(groups, train.beta1)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): the sign of an interpolated momentum, decoupled decay; half the state of Adam."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """θ ← θ − lr·(sign(β₁m + (1−β₁)g) + λθ), then m ← β₂m + (1−β₂)g; all parameters of a group in one call."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            gradients = [cast(Tensor, p.grad) for p in parameters]
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
            signs = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(signs)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, signs, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)


class DecoupledSGD(torch.optim.SGD):
    """SGDW (Loshchilov & Hutter 2019): momentum SGD that subtracts weight decay from the weights, not through the gradient."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        decoupled = [{**group, "decay": group["weight_decay"], "weight_decay": 0.0} for group in groups]
        super().__init__(decoupled, lr=0.0, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """θ ← θ − lr·λ·θ, then the step of momentum SGD."""
        for group in self.param_groups:
            torch._foreach_mul_([p for p in group["params"] if p.grad is not None], 1 - group["lr"] * group["decay"])
        super().step()
