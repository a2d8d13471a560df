"""LoRA settings against hand values; impossible settings are refused at once."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import InputError, ToolError
from pipeline.learning.freezing import trained_share
from pipeline.network import adapters
from pipeline.network.adapters import quantisation_options
from pipeline.network.base_model import check_lora
from pipeline.network.classifier import (
    build_classifier,
    load_encoder,
    merge_adapters,
    restore_classifier,
    trainable_state,
    use_fused_layers,
)
from pipeline.params import Model, Params
from tests.pipeline.network.tiny_bert import WORDS, save_tiny_bert, tiny_classifier
from tests.refusals import error_of

IDS = torch.randint(1, WORDS, (4, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(params: Params) -> Model:
    return params.model.model_copy(update={"dropout": 0.0, "lora_rank": 4, "lora_alpha": 8.0, "kernels": "modules"})


@pytest.mark.parametrize(("scaling", "factor"), [("standard", 8 / 4), ("rank_stabilised", 8 / 4**0.5)])
def test_an_adapter_adds_its_product_by_the_scaling_that_params_name(
    folder: Path, model: Model, scaling: str, factor: float
) -> None:
    classifier = tiny_classifier(folder, model.model_copy(update={"lora_scaling": scaling}))
    query: Any = next(m for name, m in classifier.encoder.named_modules() if name.endswith("layer.0.attention.self.query"))
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(2))
    a, b = query.lora_A["default"].weight, query.lora_B["default"].weight
    torch.testing.assert_close(query(x), query.base_layer(x) + factor * (x @ a.T) @ b.T)


@pytest.mark.parametrize(("bias", "trained"), [("none", 0), ("all", 2 * (6 + 2) + 1), ("lora_only", 2)])
def test_biases_are_trained_as_params_say(folder: Path, model: Model, bias: str, trained: int) -> None:
    """Each of 2 layers has 6 linear layers and 2 norms, the embedding 1 norm; `value` is adapted in both."""
    classifier = build_classifier(folder, 3, model.model_copy(update={"lora_bias": bias, "lora_targets": "value"}))
    assert sum(name.endswith("bias") for name in trainable_state(classifier)) == trained


def test_the_adapters_own_dropout_acts_while_training(folder: Path, model: Model) -> None:
    classifier = tiny_classifier(folder, model.model_copy(update={"lora_dropout": 0.5}))
    with torch.no_grad():
        assert not torch.equal(classifier(IDS, MASK), classifier(IDS, MASK))
        classifier.eval()
        assert torch.equal(classifier(IDS, MASK), classifier(IDS, MASK))


def test_full_fine_tuning_trains_every_weight_and_is_restored_from_its_state(folder: Path, model: Model) -> None:
    full = model.model_copy(update={"method": "full"})
    classifier = build_classifier(folder, 3, full)
    assert trained_share(classifier) == 1.0
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    classifier(IDS, MASK).square().sum().backward()
    optimizer.step()
    before, after = dict(load_encoder(folder).named_parameters()), trainable_state(classifier)
    changed = [name for name in before if not torch.equal(before[name], after[f"encoder.{name}"])]
    unchanged = before.keys() - set(changed)
    assert all("key.bias" in name for name in unchanged)  # the softmax ignores a key's bias
    again = restore_classifier(folder, after, 3, full)
    merged = merge_adapters(again)
    with torch.no_grad():
        expected = classifier.eval()(IDS, MASK)
        assert torch.equal(again(IDS, MASK), expected)
        assert torch.equal(merged(IDS, MASK), expected)
    with pytest.raises(InputError, match="does not fit section model"):
        restore_classifier(folder, after, 3, model)


def test_full_fine_tuning_ignores_targets_and_is_not_fused(folder: Path, model: Model) -> None:
    full = model.model_copy(update={"method": "full", "lora_targets": "nobody", "kernels": "auto"})
    assert use_fused_layers(build_classifier(folder, 3, full), full, "fp32").startswith("modules: ")


def gradients(classifier: nn.Module) -> tuple[list[Tensor], int]:
    """Return the gradients of trained parameters, and the bytes that the forward pass saved for the backward pass."""
    saved: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss = classifier(IDS, MASK).square().sum()
    weights = {p.untyped_storage().data_ptr() for p in classifier.parameters()}
    grads = torch.autograd.grad(loss, [p for p in classifier.parameters() if p.requires_grad])
    return list(grads), sum(size for pointer, size in saved.items() if pointer not in weights)


def test_gradient_checkpointing_saves_less_and_gives_the_same_gradients(folder: Path, model: Model) -> None:
    plain, saved = gradients(tiny_classifier(folder, model))
    again, saved_less = gradients(tiny_classifier(folder, model.model_copy(update={"checkpointing": "layers"})))
    for gradient, other in zip(plain, again, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-5)
    assert saved_less < 0.5 * saved


@pytest.mark.parametrize(("targets", "near"), [("querry,value", "query"), ("query,Value", "value"), ("valu", "value")])
def test_a_module_that_the_base_does_not_have_is_refused_in_a_moment_with_the_nearest_name(
    folder: Path, model: Model, targets: str, near: str
) -> None:
    started = time.perf_counter()
    with pytest.raises(InputError, match="no module") as refused:
        check_lora(folder, model.model_copy(update={"lora_targets": targets}))
    assert time.perf_counter() - started < 1.0
    assert f"did you mean `{near}`?" in str(refused.value)


def test_modules_can_be_named_by_the_end_of_their_path(folder: Path, model: Model) -> None:
    named = model.model_copy(update={"lora_targets": "self.query, output.dense"})
    assert error_of(check_lora, folder, named) == ""
    modules = {name for name, module in build_classifier(folder, 3, named).named_modules() if hasattr(module, "lora_A")}
    assert len(modules) == 2 * (1 + 2)  # in each layer the query, and the dense part of both outputs
    assert all(name.endswith(("self.query", "output.dense")) for name in modules)


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_quantising_without_bitsandbytes_or_without_a_gpu_is_refused_in_a_moment(
    folder: Path, model: Model, quantise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised = model.model_copy(update={"quantise": quantise})
    started = time.perf_counter()
    with pytest.raises(ToolError, match="bitsandbytes"):
        build_classifier(folder, 3, quantised)
    monkeypatch.setattr(adapters.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ToolError, match="needs a GPU"):
        load_encoder(folder, quantise=quantised.quantise)
    assert time.perf_counter() - started < 1.0


def test_four_bits_are_normal_float_with_constants_quantised_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks the arguments for the library; quantising itself needs a GPU."""
    monkeypatch.setattr(adapters.torch.cuda, "is_available", lambda: True)
    config: dict[str, Any] = {}
    monkeypatch.setattr(adapters, "BitsAndBytesConfig", lambda **arguments: config.update(arguments))
    assert set(quantisation_options("4bit")) == {"quantization_config", "device_map"}
    assert config == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    }
    config.clear()
    quantisation_options("8bit")
    assert config == {"load_in_8bit": True}
    assert quantisation_options("none") == {}
