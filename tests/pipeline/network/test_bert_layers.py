"""Fused layers: values and gradients against transformers and peft, dropout, and encoders that they do not support."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DistilBertConfig, DistilBertModel

from pipeline.network.bert_layers import FusedBert
from pipeline.network.classifier import TextClassifier, build_classifier, load_encoder, use_fused_layers, why_not_fused
from pipeline.params import Model, Params
from tests.pipeline.network.tiny_bert import WORDS, save_tiny_bert, tiny_classifier

IDS = torch.randint(1, WORDS, (4, 9), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(9) < torch.tensor([[9], [7], [3], [1]])).long()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(params: Params) -> Model:
    return params.model.model_copy(update={"kernels": "auto", "dropout": 0.0, "lora_rank": 4, "lora_alpha": 6.0})


def outcome(classifier: TextClassifier, seed: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits, and the gradients of a loss that depends on all of them."""
    logits = classifier(IDS, MASK, seed)
    trained = {name: p for name, p in classifier.named_parameters() if p.requires_grad}
    loss = (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum()
    return logits.detach(), dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


@pytest.mark.parametrize("targets", ["all-linear", "query,value", "value", "intermediate.dense,output.dense"])
def test_values_and_gradients_are_those_of_the_library(folder: Path, model: Model, targets: str) -> None:
    classifier = tiny_classifier(folder, model.model_copy(update={"lora_targets": targets}))
    expected, gradients = outcome(classifier)
    assert use_fused_layers(classifier, model, "fp32") == "fused"
    logits, fused_gradients = outcome(classifier)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert fused_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fused_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_fused_layers_compute_instead_of_the_encoder(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = tiny_classifier(folder, model)
    use_fused_layers(classifier, model, "fp32")
    monkeypatch.setattr(classifier.encoder, "forward", lambda **_: pytest.fail("the library was called"))
    assert classifier(IDS, MASK).shape == (4, 3)


def test_adapters_that_changed_are_merged_again(folder: Path, model: Model) -> None:
    classifier = tiny_classifier(folder, model)
    use_fused_layers(classifier, model, "fp32")
    before, _ = outcome(classifier)
    optimizer = torch.optim.AdamW([p for p in classifier.encoder.parameters() if p.requires_grad], lr=0.05)
    classifier(IDS, MASK).sum().backward()
    optimizer.step()
    after, _ = outcome(classifier)
    classifier.fused = None
    torch.testing.assert_close(after, outcome(classifier)[0], atol=1e-5, rtol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_layers_below_the_lowest_adapter_get_no_gradient_and_those_above_the_same(folder: Path, model: Model) -> None:
    classifier = tiny_classifier(folder, model)
    for name, p in classifier.named_parameters():
        if "layer.0." in name:
            p.requires_grad_(False)
    _, expected = outcome(classifier)
    use_fused_layers(classifier, model, "fp32")
    _, gradients = outcome(classifier)
    assert not any("layer.0." in name for name in gradients)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)


def test_bf16_stays_near_fp32(folder: Path, model: Model) -> None:
    classifier = tiny_classifier(folder, model)
    expected, _ = outcome(classifier)
    use_fused_layers(classifier, model, "bf16")
    logits, _ = outcome(classifier)
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    assert next(m for n, m in classifier.encoder.named_modules() if n.endswith("query.base_layer")).weight.dtype == torch.bfloat16


def test_gradients_hold_under_dropout(folder: Path, model: Model) -> None:
    """The same seed drops the same values, so two evaluations give the slope along a direction."""
    dropping = model.model_copy(update={"dropout": 0.3})
    classifier = tiny_classifier(folder, dropping)
    use_fused_layers(classifier, dropping, "fp32")
    weights = torch.linspace(-1, 1, 12).view(4, 3)
    for name, p in classifier.named_parameters():
        if not p.requires_grad:
            continue
        direction, start = torch.randn(p.shape, generator=torch.Generator().manual_seed(2)), p.detach().clone()
        _, gradients = outcome(classifier, seed=3)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.copy_(start + sign * 1e-3 * direction)
                ends.append(float((classifier(IDS, MASK, 3) * weights).double().sum()))
                p.copy_(start)
        expected = (ends[0] - ends[1]) / 2e-3
        assert float((gradients[name] * direction).sum()) == pytest.approx(expected, rel=0.03, abs=0.03), name


def test_a_seed_gives_the_same_masks_and_evaluation_has_none(folder: Path, model: Model) -> None:
    dropping = model.model_copy(update={"dropout": 0.3})
    classifier = tiny_classifier(folder, dropping)
    use_fused_layers(classifier, dropping, "fp32")
    with torch.no_grad():
        first, again, other = (classifier(IDS, MASK, seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert (first - other).abs().max() > 0.1
        classifier.eval()
        assert torch.equal(classifier(IDS, MASK, 1), classifier(IDS, MASK, 2))


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"lora_dropout": 0.1}, "adapters with dropout"), ({"lora_targets": "word_embeddings"}, "outside the layers")],
)
def test_adapters_that_cannot_be_merged_use_the_library(folder: Path, model: Model, changes: dict[str, Any], why: str) -> None:
    changed = model.model_copy(update=changes)
    classifier = build_classifier(folder, 3, changed)
    assert why in str(use_fused_layers(classifier, changed, "fp32"))
    assert classifier.fused is None


def test_other_encoders_and_full_fine_tuning_use_the_library(folder: Path, model: Model, tmp_path: Path) -> None:
    DistilBertModel(DistilBertConfig(vocab_size=WORDS, dim=24, n_layers=1, n_heads=3, hidden_dim=48)).save_pretrained(tmp_path)
    assert "not a BERT" in str(why_not_fused(build_classifier(tmp_path, 3, model).encoder))
    assert "not a BERT" in str(why_not_fused(load_encoder(folder)))
    whole = build_classifier(folder, 3, model).encoder.requires_grad_(True)
    assert "more than adapters" in str(why_not_fused(whole))


def test_the_mask_pool_is_large_enough_for_attention_over_long_rows(folder: Path, model: Model) -> None:
    classifier = tiny_classifier(folder, model)
    assert use_fused_layers(classifier, model, "fp32") == "fused"
    ids = torch.randint(1, WORDS, (250, 39), generator=torch.Generator().manual_seed(1))  # 3 heads x 39 > 24 wide
    assert classifier(ids, torch.ones_like(ids), 1).isfinite().all()


def test_params_can_choose_the_library(folder: Path, model: Model) -> None:
    classifier = build_classifier(folder, 3, model)
    assert use_fused_layers(classifier, model.model_copy(update={"kernels": "modules"}), "fp32").startswith("modules")
    assert not isinstance(classifier.fused, FusedBert)
