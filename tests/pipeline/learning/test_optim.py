"""Parameter groups of the optimiser."""

import torch
from torch import nn

from pipeline.learning.optim import adamw
from pipeline.params import Params


class Small(nn.Module):
    """A frozen weight, an adapter and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ParameterDict({"base": torch.ones(2), "lora_A": torch.ones(3)})
        self.encoder["base"].requires_grad_(False)
        self.head = nn.Linear(2, 2, bias=False)


def test_adapters_decay_and_the_head_has_its_own_rate_without_decay(params: Params) -> None:
    small = Small()
    adapters, head = adamw(small, params.train).param_groups
    assert (adapters["lr"], adapters["weight_decay"]) == (params.train.encoder_lr, params.train.weight_decay)
    assert (head["lr"], head["weight_decay"]) == (params.train.head_lr, 0.0)
    assert [id(p) for p in adapters["params"]] == [id(small.encoder["lora_A"])]
    assert [id(p) for p in head["params"]] == [id(small.head.weight)]


def test_the_first_step_moves_each_group_by_its_own_rate(params: Params) -> None:
    """Adam's first step is the learning rate in the direction of the sign, whatever the size of the gradient."""
    small = Small()
    before = small.head.weight.detach().clone()
    optimizer = adamw(small, params.train)
    (small.encoder["lora_A"].sum() * 1e-3 + small.head.weight.sum() * 1e3).backward()
    optimizer.step()
    decayed = 1.0 - params.train.encoder_lr * params.train.weight_decay
    torch.testing.assert_close(small.encoder["lora_A"], torch.full((3,), decayed - params.train.encoder_lr), atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(small.head.weight, before - params.train.head_lr)
    assert small.encoder["base"].tolist() == [1.0, 1.0]
