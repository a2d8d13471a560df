"""The prefix cache: it holds what the lower layers compute, and training with it equals training without."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, DistilBertConfig, LlamaConfig, MPNetConfig, RobertaConfig

from pipeline.learning.classification import classification_task
from pipeline.learning.freezing import freeze
from pipeline.learning.loop import FitResult, fit
from pipeline.learning.prefix_cache import PrefixCache, SegmentStore, bytes_needed, encoder_layers, lower_layers_digest, text_key
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import TextClassifier, load_encoder
from pipeline.params import Params
from tests.pipeline.learning.toy import Toy, fresh, toy_rows, toy_settings

CUT = 4
PIECES = [[101, 2073, 2003, 2026, 20463, 102], [101, 4149, 102], [101, 2026, 102]]
TINY = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
DISTIL = {"vocab_size": 99, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}


@pytest.fixture(scope="module")
def toy(params: Params) -> Toy:
    return toy_rows(params)


@pytest.fixture(scope="module")
def encoder(params: Params) -> nn.Module:
    return load_encoder(base_folder(params.model)).eval()


def train(params: Params, toy: Toy, home: Path | None) -> tuple[FitResult, list[float]]:
    """Train the two upper layers, with the cache in this home or without; the loss of every step."""
    settings, losses = toy_settings(params).model_copy(update={"trained_layers": 2}), []
    model: TextClassifier = fresh(params, dropout=0.1)
    cut = freeze(model, settings)
    rows, inside = list(toy), nullcontext()
    if home:
        cache = PrefixCache(model.encoder, cut, home, "fp32")
        rows, inside = [side._replace(collate=cache.collate(side.pieces, 4)) for side in toy], cache.skip_lower_layers()
    with inside:
        fitted = fit(
            classification_task(model, *rows, settings, "fp32"),
            settings,
            log_step=lambda _step, values: losses.append(values["loss"]),
            log_epoch=lambda *_: None,
        )
    return fitted, losses


def test_losses_and_weights_are_those_of_training_without_it(params: Params, toy: Toy, tmp_path: Path) -> None:
    """Dropout acts above the cut, from the same random numbers."""
    plain, losses = train(params, toy, None)
    cached, from_cache = train(params, toy, tmp_path)
    assert from_cache == pytest.approx(losses, abs=1e-5)
    assert [epoch["val_loss"] for epoch in cached.epochs] == pytest.approx(
        [epoch["val_loss"] for epoch in plain.epochs], abs=1e-5
    )
    for name, value in plain.state.items():
        torch.testing.assert_close(cached.state[name], value, atol=1e-4, rtol=1e-3)


def test_it_holds_the_hidden_states_that_transformers_reports(encoder: nn.Module, tmp_path: Path) -> None:
    collate = PrefixCache(encoder, CUT, tmp_path, "fp32").collate(PIECES, batch_size=2)
    batch = collate([0, 1])
    with torch.no_grad():
        expected: list[Tensor] = [
            encoder(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states[CUT][0] for text in PIECES[:2]
        ]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 3 + [0] * 3]
    torch.testing.assert_close(batch["input_ids"][0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch["input_ids"][1, :3], expected[1], atol=1e-5, rtol=1e-5)


def counted(cache: PrefixCache) -> list[int]:
    """Return a list that collects the rows of each batch the lower layers compute from now on."""
    rows: list[int] = []
    hidden_at_cut = cache.hidden_at_cut

    def spy(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        rows.append(len(input_ids))
        return hidden_at_cut(input_ids, attention_mask)

    cache.hidden_at_cut = spy  # type: ignore[method-assign]
    return rows


def test_another_process_finds_it_and_computes_only_new_texts(encoder: nn.Module, tmp_path: Path) -> None:
    first = PrefixCache(encoder, CUT, tmp_path, "fp32")
    rows = counted(first)
    before = first.collate(PIECES[:2], batch_size=8)([0, 1])
    assert rows == [2]
    second = PrefixCache(encoder, CUT, tmp_path, "fp32")
    rows = counted(second)
    again = second.collate(PIECES, batch_size=8)([0, 1])
    assert rows == [1]
    assert torch.equal(again["input_ids"], before["input_ids"])


def test_a_text_that_comes_twice_is_computed_once(encoder: nn.Module, tmp_path: Path) -> None:
    cache = PrefixCache(encoder, CUT, tmp_path, "fp32")
    rows = counted(cache)
    cache.collate([PIECES[0], PIECES[0]], batch_size=8)
    assert rows == [1]


def test_other_weights_another_cut_or_another_precision_have_another_digest(params: Params, encoder: nn.Module) -> None:
    digest = lower_layers_digest(encoder, CUT, "fp32")
    assert digest == lower_layers_digest(load_encoder(base_folder(params.model)), CUT, "fp32")
    assert digest != lower_layers_digest(encoder, CUT - 1, "fp32")
    assert digest != lower_layers_digest(encoder, CUT, "bf16")
    other = load_encoder(base_folder(params.model))
    with torch.no_grad():
        encoder_layers(other)[CUT].attention.self.query.weight[0, 0] += 1e-3
    assert digest == lower_layers_digest(other, CUT, "fp32")  # a layer above
    with torch.no_grad():
        encoder_layers(other)[CUT - 1].attention.self.query.weight[0, 0] += 1e-3
    assert digest != lower_layers_digest(other, CUT, "fp32")


def test_adapters_do_not_change_the_digest(params: Params) -> None:
    small, large = (fresh(params, lora_rank=rank).encoder for rank in (2, 8))
    assert lower_layers_digest(small, CUT, "fp32") == lower_layers_digest(large, CUT, "fp32")


def test_lower_layers_run_outside_the_context_only(encoder: nn.Module, tmp_path: Path) -> None:
    cache = PrefixCache(encoder, CUT, tmp_path, "fp32")
    ran: list[int] = []
    hooks = [
        layer.attention.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(encoder_layers(encoder))
    ]
    with cache.skip_lower_layers(), torch.no_grad():
        encoder(inputs_embeds=torch.zeros(1, 3, 384), attention_mask=torch.ones(1, 3, dtype=torch.int64))
    assert ran == [4, 5]
    with torch.no_grad():
        encoder(input_ids=torch.tensor([PIECES[0]]))
    assert ran == [4, 5, 0, 1, 2, 3, 4, 5]
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        (BertConfig(**TINY), True),
        (RobertaConfig(**TINY), True),
        (DistilBertConfig(**DISTIL), True),
        (LlamaConfig(**TINY), True),
        (MPNetConfig(**TINY), False),  # its layers return tuples
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_it_detects_which_encoders_it_fits(config: Any, fits: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(config).eval()
    difference = PrefixCache(encoder, 2, tmp_path, "fp32").max_difference([[5, 6, 7, 8], [9, 10]])
    assert (difference < 1e-5) is fits


def test_bf16_takes_half_the_space_and_is_restored_bit_for_bit(tmp_path: Path) -> None:
    rows = {text_key(text): torch.randn(len(text), 8, generator=torch.Generator().manual_seed(1)) for text in PIECES}
    sizes = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        folder.mkdir()
        store = SegmentStore(folder, precision)
        store.add(rows)
        again = SegmentStore(folder, precision)
        for key, hidden in rows.items():
            assert torch.equal(again.read(again.locations[key]), hidden.to(store.dtype))
        sizes[precision] = sum(path.stat().st_size for path in folder.glob("*.npy")) - 128  # the header of a .npy file
    assert sizes["fp32"] == bytes_needed([PIECES], 8, "fp32") == 2 * sizes["bf16"]


def test_a_segment_without_its_index_does_not_count(encoder: nn.Module, tmp_path: Path) -> None:
    cache = PrefixCache(encoder, CUT, tmp_path, "fp32")
    cache.collate(PIECES, batch_size=8)
    for index in cache.store.folder.glob("*.json"):
        index.unlink()
    again = PrefixCache(encoder, CUT, tmp_path, "fp32")
    rows = counted(again)
    again.collate(PIECES, batch_size=8)
    assert rows == [3]
