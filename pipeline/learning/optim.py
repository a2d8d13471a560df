"""Optimisers, and the groups of parameters that learn at rates of their own: layers from the bottom up, and the head."""

import re
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pipeline.params import Train, rates_by_pattern

LAYER = re.compile(r"\.(?:layer|layers|h|block|blocks)\.(\d+)\.")


class ParameterGroup(NamedTuple):
    """Parameters with one peak rate and one weight decay."""

    name: str  # head | embeddings | layer 3 | encoder, where all layers learn alike
    peak: float
    decay: float


def layer_number(name: str) -> int | None:
    """The number of the encoder layer that a parameter belongs to; None outside of them."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def parameter_group(name: str, parameter: Tensor, layers: int, train: Train) -> ParameterGroup:
    """Rates rise geometrically from `bottom_lr` to `encoder_lr` (discriminative fine-tuning, Howard & Ruder 2018).

    The head, being young, learns faster; it does not decay, and neither do norms and biases. A pattern of `lr_rules` wins.
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
        return (
            ParameterGroup("embeddings", train.bottom_lr, decay)
            if "embed" in name
            else ParameterGroup("top", train.encoder_lr, decay)
        )
    height = layer / max(1, layers - 1)
    return ParameterGroup(f"layer {layer}", train.bottom_lr * (train.encoder_lr / train.bottom_lr) ** height, decay)


def parameter_groups(model: nn.Module, train: Train) -> dict[ParameterGroup, list[nn.Parameter]]:
    """What is trainable, by group, bottom first."""
    layers = 1 + max((layer_number(name) or 0 for name, _ in model.named_parameters()), default=0)
    groups: dict[ParameterGroup, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(parameter_group(name, parameter, layers, train), []).append(parameter)
    return groups


def peak_rates(model: nn.Module, train: Train) -> dict[str, float]:
    """Peak rate of each group by its name."""
    return {group.name: group.peak for group in parameter_groups(model, train)}


def make_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """The optimiser that params name, over what is trainable; `set_rates` moves its rates."""
    groups = [
        {"params": own, "lr": group.peak, "peak": group.peak, "weight_decay": group.decay}
        for group, own in parameter_groups(model, train).items()
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
    """Every group learns at `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Memory of what the optimiser keeps for each parameter."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in kept)


class Lion(torch.optim.Optimizer):
    """The sign of an interpolated momentum, decay decoupled (Chen et al. 2023, algorithm 2): one state, where Adam keeps two."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """θ ← θ − lr·(sign(β₁m + (1−β₁)g) + λθ), then m ← β₂m + (1−β₂)g; all parameters of a group at once."""
        for group in self.param_groups:
            own = [p for p in group["params"] if p.grad is not None]
            if not own:
                continue
            beta1, beta2 = group["betas"]
            gradients = [cast(Tensor, p.grad) for p in own]
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in own]
            signs = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(signs)
            torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(own, signs, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)


class DecoupledSGD(torch.optim.SGD):
    """Momentum SGD whose weight decay is taken off the weights, not added to the gradient (Loshchilov & Hutter 2019, SGDW)."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        decoupled = [{**group, "decay": group["weight_decay"], "weight_decay": 0.0} for group in groups]
        super().__init__(decoupled, lr=0.0, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """θ ← θ − lr·λ·θ, then the step of momentum SGD."""
        for group in self.param_groups:
            torch._foreach_mul_([p for p in group["params"] if p.grad is not None], 1 - group["lr"] * group["decay"])
        super().step()
