"""Causal language models of Llama's shape: packed as unpacked, default adapters, and training through the same loop."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pipeline.causal.packing import Sequences, packed_batch
from pipeline.causal.task import causal_task, load_causal, next_piece_loss, validate
from pipeline.learning.loop import fit
from pipeline.params import Causal, Params
from tests.pipeline.causal.tiny_llama import WORDS, save_tiny_llama

GENERATOR = torch.Generator().manual_seed(3)
TEXTS = Sequences(
    [torch.randint(1, WORDS, (length,), generator=GENERATOR).tolist() for length in (9, 5, 7, 12, 4, 8)], [0, 2, 0, 3, 0, 1]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def causal(params: Params) -> Causal:
    return params.causal.model_copy(update={"lora_dropout": 0.0, "packed_pieces": 32})


def test_the_articles_adapters_are_the_defaults(params: Params, folder: Path) -> None:
    causal = params.causal
    assert (causal.lora_rank, causal.lora_alpha, causal.lora_dropout, causal.lora_targets) == (8, 16, 0.1, "q_proj,v_proj")
    model = load_causal(folder, causal)
    trained = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "v_proj"}


def test_packed_sequences_have_the_loss_and_gradients_of_each_alone(folder: Path, causal: Causal) -> None:
    """The reference is the library: one sequence per call, no mask, no positions."""
    torch.manual_seed(1)
    model = load_causal(folder, causal).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.normal_(std=0.2)
    losses = []
    for pieces, start in zip(*TEXTS, strict=True):
        first = max(1, start)
        logits = model(input_ids=torch.tensor([pieces])).logits[0, first - 1 : -1]
        losses.append(F.cross_entropy(logits, torch.tensor(pieces[first:]), reduction="none"))
    alone = torch.cat(losses).mean()
    together = next_piece_loss("fp32")(model, packed_batch(TEXTS, [[3, 0, 1], [5, 2, 4]], multiple=8))
    assert together.item() == pytest.approx(alone.item(), abs=1e-5)
    for gradient, other in zip(torch.autograd.grad(together, trained), torch.autograd.grad(alone, trained), strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)


def test_without_boundaries_the_loss_differs(folder: Path, causal: Causal) -> None:
    model = load_causal(folder, causal)
    correct = packed_batch(TEXTS, [[3, 0, 1]])
    leaking = {**correct, "attention_mask": correct["attention_mask"].clamp(max=1)}
    loss = next_piece_loss("fp32")
    assert abs(loss(model, correct).item() - loss(model, leaking).item()) > 1e-3


def test_a_language_model_learns_through_the_same_loop(folder: Path, causal: Causal, params: Params) -> None:
    few = {
        "epochs": 6,
        "batch_size": 2,
        "encoder_lr": 2e-2,
        "bottom_lr": 2e-2,
        "accumulate": 2,
        "patience": 6,
        "watch": "accuracy",
        "log_every_steps": 1,
    }
    settings = params.train.model_copy(update=few)
    torch.manual_seed(1)
    model = load_causal(folder, causal)
    repeated = Sequences([[1, 2, 3, 4, 5, 6, 7, 8]] * 12, [0] * 12)
    before = validate(model, repeated, causal, batch_size=2, precision="fp32")
    task = causal_task(model, repeated, repeated, causal, val_batch=2, precision="fp32")
    fitted = fit(task, settings, log_step=lambda _step, _values: None, log_epoch=lambda _epoch, _values: None)
    assert len(task.lengths) == 3  # four sequences of 8 in a pack of 32
    after = fitted.epochs[-1]
    assert after["val_loss"] < 0.5 * before["loss"]
    assert after["val_perplexity"] == pytest.approx(torch.tensor(after["val_loss"]).exp().item(), rel=1e-4)
