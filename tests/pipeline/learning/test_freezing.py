"""Freezing: which parameters are frozen, that they do not change, and that frozen layers run in evaluation mode."""

from typing import Any

import pytest
import torch

from pipeline.errors import InputError
from pipeline.learning.classification import classification_task
from pipeline.learning.freezing import freeze, trained_share
from pipeline.learning.loop import fit
from pipeline.learning.optim import layer_number
from pipeline.network.base_model import base_folder
from pipeline.network.batching import pad
from pipeline.network.classifier import CosineHead, TextClassifier, load_encoder, trainable_state
from pipeline.params import Params, Train
from tests.pipeline.learning.toy import fresh, toy_rows, toy_settings

HEAD = "head.weight"


def setting(params: Params, **changes: Any) -> Train:
    plain = {"trained_layers": "all", "frozen": "none", "lr_rules": "none"}
    return toy_settings(params).model_copy(update=plain | changes)


def trained_layers(model: TextClassifier) -> set[int | None]:
    return {layer_number(name) for name in trainable_state(model)}


def whole(params: Params) -> TextClassifier:
    """Return the encoder without adapters and with every weight trainable: full fine-tuning."""
    encoder = load_encoder(base_folder(params.model), dropout=0.1).requires_grad_(True)
    return TextClassifier(encoder, CosineHead(2, 384, 20.0))


def test_all_layers_are_trained_unless_params_say_otherwise(params: Params) -> None:
    model = fresh(params)
    before = trainable_state(model).keys()
    assert freeze(model, setting(params)) == 0
    assert trainable_state(model).keys() == before


@pytest.mark.parametrize("adapters", [True, False])
def test_only_so_many_layers_from_the_top_and_the_head_are_trained(adapters: bool, params: Params) -> None:
    model = fresh(params) if adapters else whole(params)
    assert freeze(model, setting(params, trained_layers=2)) == 4
    assert trained_layers(model) == {4, 5, None}
    assert {name for name in trainable_state(model) if layer_number(name) is None} == {HEAD}


def test_all_but_the_last_layer_frozen_leaves_less_than_a_tenth_to_train(params: Params) -> None:
    model = whole(params)
    assert trained_share(model) == 1.0
    freeze(model, setting(params, trained_layers=1))
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384  # attention, feed-forward, two norms
    head = 2 * 384
    assert trained_share(model) == (layer + head) / sum(p.numel() for p in model.parameters())
    assert trained_share(model) < 0.1


def test_patterns_freeze_what_they_name_and_rate_0_freezes_too(params: Params) -> None:
    model = fresh(params)
    cut = freeze(model, setting(params, frozen="*.layer.0.*, *.layer.1.*", lr_rules="*.layer.2.*=0, *.layer.3.*=1e-4"))
    assert cut == 3
    assert trained_layers(model) == {3, 4, 5, None}


def test_a_frozen_layer_between_trained_ones_does_not_move_the_cut(params: Params) -> None:
    model = fresh(params)
    assert freeze(model, setting(params, frozen="*.layer.3.*")) == 0
    assert trained_layers(model) == {0, 1, 2, 4, 5, None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": "*.layers.0.*"}, r"no parameter matches `\*\.layers\.0\.\*`(.|\n)*nearest name is .*layer\.0\."),
        ({"lr_rules": "haed.*=0"}, r"train\.lr_rules(.|\n)*nearest name is head\.weight"),
        ({"trained_layers": 7}, r"the encoder has 6(.|\n)*nearest that works: 6"),
        ({"frozen": "*"}, "nothing is left to train"),
    ],
)
def test_an_impossible_freeze_is_refused_with_the_nearest_choice(changes: dict[str, Any], message: str, params: Params) -> None:
    with pytest.raises(InputError, match=message):
        freeze(fresh(params), setting(params, **changes))


def test_training_moves_the_trained_layers_and_no_others(params: Params) -> None:
    model, settings = fresh(params), setting(params, trained_layers=2, epochs=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    freeze(model, settings)
    task = classification_task(model, *toy_rows(params), settings, "fp32")
    fit(task, settings, log_step=lambda *_: None, log_epoch=lambda *_: None)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {layer_number(name) for name in changed} == {4, 5, None}


@pytest.mark.parametrize("cut", [0, 4])
def test_dropout_acts_above_the_cut_alone_also_after_training_is_switched_on(cut: int, params: Params) -> None:
    model = fresh(params, dropout=0.5)
    freeze(model, setting(params, trained_layers=6 - cut))
    model.train()
    entering: list[torch.Tensor] = []
    layer = model.encoder.get_base_model().encoder.layer[4]
    layer.register_forward_pre_hook(lambda _module, inputs: entering.append(inputs[0].detach()))
    batch = pad([[101, 2073, 2003, 2026, 20463, 102]], [0])
    first, second = (model(**batch) for _ in range(2))
    assert torch.equal(*entering) is (cut == 4)
    assert not torch.equal(first, second)


def test_adapters_below_the_cut_are_not_computed(params: Params) -> None:
    model = fresh(params)
    freeze(model, setting(params, trained_layers=2))
    layers = model.encoder.get_base_model().encoder.layer
    assert [layer.attention.self.query.disable_adapters for layer in layers] == [True] * 4 + [False] * 2
