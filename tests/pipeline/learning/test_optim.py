"""Parameter groups, and the optimisers' steps against their textbook formulas."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.learning.memory_use import memory_by_part
from pipeline.learning.optim import (
    ParameterGroup,
    layer_number,
    make_optimizer,
    parameter_group,
    parameter_groups,
    peak_rates,
    set_rates,
)
from pipeline.params import Params, Train

Array = NDArray[np.float64]


class Small(nn.Module):
    """A frozen weight, an adapter, a norm in each of three layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.embeddings = nn.Embedding(2, 2)
        self.encoder.layer = nn.ModuleList(nn.ModuleDict({"lora": nn.Linear(2, 3), "norm": nn.LayerNorm(3)}) for _ in range(3))
        self.encoder.base = nn.Parameter(torch.ones(2), requires_grad=False)
        self.head = nn.Linear(2, 2, bias=False)


@pytest.fixture
def train(params: Params) -> Train:
    fixed = {"encoder_lr": 4e-3, "bottom_lr": 1e-3, "head_lr": 1e-2, "weight_decay": 0.1, "lr_rules": "none", "beta2": 0.99}
    return params.train.model_copy(update=fixed)


def test_every_trainable_parameter_is_in_one_group_and_no_other(train: Train) -> None:
    small = Small()
    grouped = [id(p) for group in make_optimizer(small, train).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in small.parameters() if p.requires_grad)


def test_rates_rise_geometrically_through_the_layers_to_the_head(train: Train) -> None:
    assert peak_rates(Small(), train) == pytest.approx(
        {"embeddings": 1e-3, "layer 0": 1e-3, "layer 1": 2e-3, "layer 2": 4e-3, "head": 1e-2}
    )


def test_layers_with_one_rate_are_one_group_and_the_rates_are_those_of_params(train: Train) -> None:
    assert peak_rates(Small(), train.model_copy(update={"bottom_lr": 4e-3})) == {"encoder": 4e-3, "head": 1e-2}


def test_norms_biases_and_the_head_do_not_decay(train: Train) -> None:
    small = Small()
    names = {id(p): name for name, p in small.named_parameters()}
    decaying = {names[id(p)] for group, parameters in parameter_groups(small, train).items() if group.decay for p in parameters}
    assert decaying == {"encoder.embeddings.weight", *(f"encoder.layer.{n}.lora.weight" for n in range(3))}


def test_the_first_pattern_that_fits_sets_the_rate(train: Train) -> None:
    ruled = train.model_copy(update={"lr_rules": "*.layer.1.*=7e-5, *norm*=9e-5, head.*=0.5"})
    weight = torch.zeros(2, 2)
    assert parameter_group("encoder.layer.1.norm.weight", torch.zeros(2), 3, ruled) == ParameterGroup("*.layer.1.*", 7e-5, 0.0)
    assert parameter_group("encoder.layer.2.norm.weight", torch.zeros(2), 3, ruled) == ParameterGroup("*norm*", 9e-5, 0.0)
    assert parameter_group("encoder.layer.2.lora.weight", weight, 3, ruled).peak == pytest.approx(4e-3)
    assert parameter_group("head.weight", weight, 3, ruled).peak == 0.5


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.base_model.model.encoder.layer.11.attention.self.query.lora_A.default.weight", 11),
        ("model.layers.3.self_attn.q_proj.weight", 3),
        ("encoder.embeddings.word_embeddings.weight", None),
        ("head.weight", None),
    ],
)
def test_the_layer_is_read_from_the_name(name: str, layer: int | None) -> None:
    assert layer_number(name) == layer


def test_setting_rates_keeps_the_proportions(train: Train) -> None:
    optimizer = make_optimizer(Small(), train)
    set_rates(optimizer, 0.5)
    assert {group["peak"]: group["lr"] for group in optimizer.param_groups} == {
        group["peak"]: group["peak"] / 2 for group in optimizer.param_groups
    }


def by_adamw(w: Array, gradients: list[Array], lr: float, decay: float, b1: float, b2: float) -> Array:
    """Loshchilov & Hutter 2019, algorithm 2."""
    m = v = np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w * (1 - lr * decay) - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
    return w


def by_lion(w: Array, gradients: list[Array], lr: float, decay: float, b1: float, b2: float) -> Array:
    """Chen et al. 2023, algorithm 2."""
    m = np.zeros_like(w)
    for g in gradients:
        w = w - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * w)
        m = b2 * m + (1 - b2) * g
    return w


def by_sgdw(w: Array, gradients: list[Array], lr: float, decay: float, b1: float, b2: float) -> Array:
    """Loshchilov & Hutter 2019, algorithm 1, without its damping of the momentum."""
    m = np.zeros_like(w)
    for g in gradients:
        m = b1 * m + g
        w = w - lr * m - lr * decay * w
    return w


@pytest.mark.parametrize(("name", "formula"), [("adamw", by_adamw), ("lion", by_lion), ("sgd", by_sgdw)])
def test_five_steps_are_those_of_the_textbook(name: str, formula: Any, train: Train) -> None:
    small, draw = Small().double(), np.random.default_rng(3)
    trained = {n: p for n, p in small.named_parameters() if p.requires_grad}
    before = {n: p.detach().numpy().copy() for n, p in trained.items()}
    gradients = {n: [draw.normal(size=p.shape) for _ in range(5)] for n, p in trained.items()}
    optimizer = make_optimizer(small, train.model_copy(update={"optimizer": name}))
    set_rates(optimizer, 0.5)
    for step in range(5):
        for n, p in trained.items():
            p.grad = torch.from_numpy(gradients[n][step])
        optimizer.step()
    for n, p in trained.items():
        group = parameter_group(n, p, 3, train)
        expected = formula(before[n], gradients[n], group.peak / 2, group.decay, train.beta1, train.beta2)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-9, atol=1e-12, err_msg=n)
    assert small.encoder.base.tolist() == [1.0, 1.0]


def test_lion_and_sgd_keep_half_the_state_of_adamw(train: Train) -> None:
    sizes = {}
    for name in ("adamw", "lion", "sgd"):
        small = Small()
        optimizer = make_optimizer(small, train.model_copy(update={"optimizer": name}))
        sum(p.sum() for p in small.parameters() if p.requires_grad).backward()
        optimizer.step()
        sizes[name] = memory_by_part(small, optimizer)["optimizer"]
    parameters = 4 * sum(p.numel() for p in Small().parameters() if p.requires_grad)
    assert sizes["lion"] == sizes["sgd"] == parameters
    assert sizes["adamw"] == 2 * parameters + 4 * 14  # and a step count for each of 14 tensors
