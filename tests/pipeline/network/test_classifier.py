"""The network's numerics: pooling, cosine head, adapters and their merge."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.network.base_model import base_folder
from pipeline.network.batching import pad
from pipeline.network.classifier import (
    CosineHead,
    ExportedModel,
    TextClassifier,
    build_classifier,
    load_encoder,
    merge_adapters,
    restore_classifier,
    sketch_projection,
    trainable_state,
)
from pipeline.params import Model, Params
from pipeline.runtime.pieces import load_tokenizer, to_pieces

IDS = torch.tensor([[101, 2073, 2003, 2026, 20463, 102], [101, 4149, 102, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
State = dict[str, Tensor]


class Table(nn.Module):
    """An encoder that looks up the hidden state of a piece in a table."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.rows[input_ids])


@pytest.fixture(scope="module")
def model(params: Params) -> Model:
    return params.model.model_copy(update={"lora_rank": 4})


@pytest.fixture(scope="module")
def folder(model: Model) -> Path:
    return base_folder(model)


@pytest.fixture(scope="module")
def state(folder: Path, model: Model) -> State:
    """Return random adapters and a head of three classes: none is zero, as after training."""
    generator = torch.Generator().manual_seed(0)
    fresh = trainable_state(build_classifier(folder, 3, model))
    return {name: 0.05 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}


def test_the_cosine_head_by_hand() -> None:
    head = CosineHead(classes=3, width=2, scale=20.0)
    head.weight.data = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-3.0, -4.0]])
    logits = head(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(logits, torch.tensor([[12.0, 16.0, -20.0]]))


def test_the_head_ignores_the_lengths_of_vectors() -> None:
    head = CosineHead(classes=4, width=8, scale=7.0)
    embedding = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(head(embedding), head(1000 * embedding))
    assert head(embedding).abs().max() <= 7.0 + 1e-5


def test_pooling_is_the_mean_over_real_pieces_by_hand() -> None:
    classifier = TextClassifier(Table([[100.0, 100.0], [1.0, 2.0], [3.0, 6.0]]), CosineHead(2, 2, 1.0))
    embeddings = classifier.embed(torch.tensor([[1, 2, 0, 0], [2, 2, 2, 1]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
    torch.testing.assert_close(embeddings, torch.tensor([[2.0, 4.0], [2.5, 5.0]]))


def test_a_row_without_a_real_piece_gives_zeros_and_not_nan() -> None:
    classifier = TextClassifier(Table([[1.0, 1.0]]), CosineHead(2, 2, 1.0))
    assert classifier.embed(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)).tolist() == [[0.0, 0.0]]


def test_padding_does_not_change_an_embedding(folder: Path) -> None:
    classifier = TextClassifier(load_encoder(folder), CosineHead(1, 1, 1.0)).eval()
    with torch.inference_mode():
        padded = classifier.embed(IDS, MASK)[1]
        alone = classifier.embed(IDS[1:, :3], MASK[1:, :3])[0]
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-5)


def test_the_encoder_is_that_of_sentence_transformers(folder: Path) -> None:
    """The cosines that sbert.net publishes for `all-MiniLM-L6-v2` and these three sentences."""
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    pieces = to_pieces(load_tokenizer(folder, 64), sentences)
    classifier = TextClassifier(load_encoder(folder), CosineHead(1, 1, 1.0)).eval()
    with torch.inference_mode():
        embeddings = nn.functional.normalize(classifier.embed(**pad(pieces, range(3))), dim=-1)
    published = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    torch.testing.assert_close(embeddings @ embeddings.T, published, atol=1e-4, rtol=0)


def test_only_adapters_and_head_are_trainable(folder: Path, model: Model) -> None:
    classifier = build_classifier(folder, 3, model)
    trainable = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name == "head.weight" for name in trainable)
    assert "head.weight" in trainable
    adapted = sum("lora_B" in name for name in trainable)
    assert adapted == 6 * 6  # six layers of six linear modules: query, key, value, attention output, two of the feed-forward
    assert trainable == set(trainable_state(classifier))


def test_named_targets_get_adapters_and_no_others(folder: Path, model: Model) -> None:
    classifier = build_classifier(folder, 3, model.model_copy(update={"lora_targets": "query, value"}))
    adapted = {name.split(".lora_")[0].split(".")[-1] for name in trainable_state(classifier) if "lora_" in name}
    assert adapted == {"query", "value"}


def test_fresh_adapters_change_nothing(folder: Path, model: Model) -> None:
    base = TextClassifier(load_encoder(folder), CosineHead(1, 1, 1.0)).eval()
    fresh = build_classifier(folder, 3, model).eval()
    with torch.inference_mode():
        torch.testing.assert_close(fresh.embed(IDS, MASK), base.embed(IDS, MASK), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.5, False)])
def test_dropout_acts_while_training_as_params_say(folder: Path, dropout: float, same: bool) -> None:
    classifier = TextClassifier(load_encoder(folder, dropout), CosineHead(1, 1, 1.0)).train()
    with torch.inference_mode():
        assert torch.equal(classifier.embed(IDS, MASK), classifier.embed(IDS, MASK)) is same


def test_merging_gives_the_same_logits(folder: Path, model: Model, state: State) -> None:
    classifier = restore_classifier(folder, state, 3, model)
    with torch.inference_mode():
        adapted = classifier(IDS, MASK)
        merged = merge_adapters(classifier)
        torch.testing.assert_close(merged(IDS, MASK), adapted, atol=1e-5, rtol=0)
        fresh = build_classifier(folder, 3, model).eval()
        fresh.head = merged.head
        assert (fresh(IDS, MASK) - adapted).abs().max() > 1e-2  # the adapters have an effect that merging could lose
    assert not any("lora_" in name for name, _ in merged.named_parameters())


def test_merging_twice_is_merging_once(folder: Path, model: Model, state: State) -> None:
    once = merge_adapters(restore_classifier(folder, state, 3, model))
    with torch.inference_mode():
        expected = once(IDS, MASK)
        assert torch.equal(merge_adapters(once)(IDS, MASK), expected)


def test_trained_parameters_are_restored_bit_for_bit(folder: Path, model: Model, state: State) -> None:
    again = trainable_state(restore_classifier(folder, state, 3, model))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_a_saved_state_does_not_change_when_training_continues(folder: Path, model: Model) -> None:
    classifier = build_classifier(folder, 3, model)
    saved = trainable_state(classifier)
    before = saved["head.weight"].clone()
    with torch.no_grad():
        classifier.head.weight.add_(1.0)
    assert torch.equal(saved["head.weight"], before)


def without(part: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if part not in name}


@pytest.mark.parametrize(
    "corrupt",
    [
        without("head."),
        without("layer.3.attention.self.query.lora_B"),
        lambda state: {**state, "encoder.unknown": torch.zeros(1)},
        lambda state: {**state, "head.weight": state["head.weight"][:2]},  # two classes
        lambda state: {name: value[:2] if "lora_A" in name else value for name, value in state.items()},  # another rank
        lambda state: {},
    ],
    ids=["no head", "an adapter lost", "an unknown part", "other classes", "other rank", "nothing"],
)
def test_a_state_that_does_not_fit_is_refused(
    corrupt: Callable[[State], State], folder: Path, model: Model, state: State
) -> None:
    with pytest.raises(InputError, match="does not fit section model"):
        restore_classifier(folder, corrupt(state), 3, model)


def test_the_projection_follows_its_seed(model: Model) -> None:
    projection = sketch_projection(384, model)
    assert projection.shape == (384, model.sketch_size)
    assert torch.equal(projection, sketch_projection(384, model))
    assert not torch.equal(projection, sketch_projection(384, model.model_copy(update={"sketch_seed": model.sketch_seed + 1})))


def test_sketches_keep_distances_on_average(model: Model) -> None:
    """Johnson-Lindenstrauss: E|Px − Py|² = |x − y|²; with 64 numbers the standard deviation of the ratio is sqrt(2/64)."""
    points = nn.functional.normalize(torch.randn(200, 384, generator=torch.Generator().manual_seed(3)), dim=-1)
    ratio = torch.pdist(points @ sketch_projection(384, model)) ** 2 / torch.pdist(points) ** 2
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)
    assert ratio.std() == pytest.approx((2 / model.sketch_size) ** 0.5, rel=0.3)


def test_the_exported_form_gives_the_logits_and_the_projected_direction() -> None:
    classifier = TextClassifier(Table([[0.0, 0.0], [3.0, 4.0]]), CosineHead(2, 2, 5.0))
    ids, mask = torch.tensor([[1]]), torch.tensor([[1]])
    logits, sketch = ExportedModel(classifier, torch.tensor([[10.0, 0.0], [0.0, 1.0]]))(ids, mask)
    torch.testing.assert_close(logits, classifier(ids, mask))
    torch.testing.assert_close(sketch, torch.tensor([[6.0, 0.8]]))
