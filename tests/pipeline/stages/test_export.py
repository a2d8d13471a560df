"""The exported model, and the parity gate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from pipeline.errors import EXIT_REFUSED, RefusedError
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import ExportedModel, TextClassifier, build_classifier, merge_adapters, sketch_projection
from pipeline.network.trained_model import TrainedModel, load_trained
from pipeline.params import Export, Params, integers
from pipeline.runtime.batches import pack, pad
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.runtime.sessions import Feeds, open_run
from pipeline.session.quantise import quantise
from pipeline.stages.export import (
    PACKED,
    PADDED,
    Parity,
    ParitySample,
    export,
    parity,
    parity_samples,
    parity_shapes,
    require_parity,
    try_packed,
)
from tests.conftest import Project
from tests.refusals import error_of

GOOD = Parity(shapes=30, max_abs_logit=1e-6, max_abs_sketch=1e-7, arg_max_equal=True)


@pytest.fixture
def settings(params: Params) -> Export:
    return params.export.model_copy(update={"parity_batches": "1 3", "parity_lengths": "3 17"})


@pytest.fixture(scope="module")
def card(made: Project) -> dict[str, Any]:
    return json.loads((made / "artifacts/export/model.json").read_text(encoding="utf-8"))


def samples_of(reference: ExportedModel, settings: Export, longest: int = 128) -> list[ParitySample]:
    return parity_samples(reference, settings, vocabulary=3000, longest=longest)


def compare(trained: TrainedModel, made: Project, settings: Export, *, head: float = 0.0, sketch: float = 0.0) -> Parity:
    """Measure parity against a model whose head and projection are changed by these offsets."""
    projection = sketch_projection(trained.classifier.head.weight.shape[1], made.params.model) + sketch
    changed = load_trained(made / "artifacts/model", made.params.model).classifier
    with torch.no_grad():
        changed.head.weight.add_(head)
    reference = ExportedModel(changed, projection).eval()
    return parity(samples_of(reference, settings), open_run(made / "artifacts/export", PADDED, 0), pad)


def test_the_gate_lets_an_equal_model_through(settings: Export) -> None:
    assert error_of(require_parity, GOOD, settings) == ""


@pytest.mark.parametrize(
    "fault",
    [
        {"max_abs_logit": 2e-4},
        {"max_abs_logit": float("nan")},
        {"arg_max_equal": False},
        {"max_abs_sketch": 0.5},  # drift is measured on the sketch: a wrong one raises alarms for ever
        {"max_abs_sketch": float("nan")},
    ],
    ids=str,
)
def test_the_gate_refuses_different_outputs(fault: dict[str, Any], settings: Export) -> None:
    with pytest.raises(RefusedError, match="parity gate") as refused:
        require_parity(GOOD._replace(**fault), settings)
    assert refused.value.exit_code == EXIT_REFUSED == 4


def test_the_limit_itself_passes(settings: Export) -> None:
    assert error_of(require_parity, GOOD._replace(max_abs_logit=settings.parity_atol), settings) == ""


def test_the_written_verdict_passes_the_gate_on_every_shape(made: Project) -> None:
    export = made.params.export
    for graph, values in json.loads((made / "artifacts/export/parity.json").read_text()).items():
        stored = Parity(**values)
        assert error_of(require_parity, stored, export) == ""
        assert stored.shapes == len(parity_shapes(export, made.params.model.max_pieces)), graph


def test_every_batch_size_and_every_length_is_compared_and_one_large_batch_of_middling_rows(params: Params) -> None:
    shapes = parity_shapes(params.export, params.model.max_pieces)
    assert shapes == [(1, 128), (2, 40), (3, 17), (7, 8), (16, 3), (16, 17)]
    assert sum(batch * most for batch, most in shapes) < 0.12 * sum(
        batch * most for batch in integers(params.export.parity_batches) for most in integers(params.export.parity_lengths)
    )


def test_more_lengths_than_batch_sizes_are_all_compared(params: Params) -> None:
    settings = params.export.model_copy(update={"parity_batches": "1 4", "parity_lengths": "2 3 5 8 13"})
    assert {most for _, most in parity_shapes(settings, 8)} == {2, 3, 5, 8}
    assert {batch for batch, _ in parity_shapes(settings, 2)} == {1, 4}


def test_the_shipped_base_model_passes_padded_and_packed_and_all_its_linear_layers_can_be_int8(
    params: Params, settings: Export, tmp_path: Path
) -> None:
    """The made project has two of its layers."""
    base = base_folder(params.model)
    classifier = build_classifier(base, 4, params.model.model_copy(update={"lora_rank": 2})).eval()
    tokenizer = load_tokenizer(base, params.model.max_pieces)
    exported = export(
        TrainedModel(classifier, [*"abcd"], tokenizer, {}), params.model_copy(update={"export": settings}), tmp_path
    )
    assert error_of(require_parity, exported.padded, settings) == ""
    assert error_of(require_parity, Parity(**exported.packed), settings) == ""
    pieces = to_pieces(tokenizer, ["where is my parcel?", "the kettle leaks"])
    assert quantise(tmp_path / PACKED.graph, tmp_path / "int8.onnx", pieces) == 36  # six in each of six blocks


def test_measuring_again_finds_the_models_equal(trained: TrainedModel, made: Project, settings: Export) -> None:
    measured = compare(trained, made, settings)
    assert measured.shapes == 3
    assert measured.arg_max_equal
    assert measured.max_abs_logit < 1e-4
    assert measured.max_abs_sketch < 1e-5


def test_lengths_beyond_the_models_longest_are_not_tried(trained: TrainedModel, made: Project, settings: Export) -> None:
    reference = ExportedModel(trained.classifier, sketch_projection(384, made.params.model)).eval()
    run = open_run(made / "artifacts/export", PADDED, 0)
    assert parity(samples_of(reference, settings, longest=8), run, pad).shapes == 2


def test_another_head_is_detected(trained: TrainedModel, made: Project, settings: Export) -> None:
    assert compare(trained, made, settings, head=0.02).max_abs_logit > settings.parity_atol


def test_another_projection_is_detected(trained: TrainedModel, made: Project, settings: Export) -> None:
    assert compare(trained, made, settings, sketch=0.01).max_abs_sketch > 1e-3


def test_nan_outputs_do_not_count_as_equal(trained: TrainedModel, made: Project, settings: Export) -> None:
    measured = compare(trained, made, settings, sketch=float("nan"))
    assert not measured.max_abs_sketch < 1.0  # NaN, or infinite: anything but a small number


def test_batch_and_length_are_free_and_names_are_those_of_the_runtime(made: Project) -> None:
    session = ort.InferenceSession(str(made / "artifacts/export/model.onnx"), providers=["CPUExecutionProvider"])
    assert {i.name: (i.type, len(i.shape)) for i in session.get_inputs()} == {
        "input_ids": ("tensor(int64)", 2),
        "attention_mask": ("tensor(int64)", 2),
    }
    assert all(isinstance(size, str) for i in session.get_inputs() for size in i.shape)
    assert {o.name: o.shape[1] for o in session.get_outputs()} == {"logits": 4, "sketch": made.params.model.sketch_size}
    for shape in ((1, 2), (5, 33)):
        ones = np.ones(shape, dtype=np.int64)
        logits, sketch = session.run(["logits", "sketch"], {"input_ids": ones, "attention_mask": ones})
        assert (len(logits), len(sketch)) == (shape[0], shape[0])


def test_the_model_card_holds_labels_length_origin_and_temperature(
    card: dict[str, Any], trained: TrainedModel, made: Project
) -> None:
    assert card["labels"] == trained.labels
    assert card["max_pieces"] == made.params.model.max_pieces
    assert card["origin"] == trained.origin
    fitted = json.loads((made / "artifacts/evaluation/temperature.json").read_text())
    assert card["temperature"] == fitted["temperature"]


def test_the_folder_holds_what_the_runtime_needs_and_no_half_files(made: Project) -> None:
    names = sorted(path.name for path in Path(made / "artifacts/export").iterdir())
    assert names == ["model.json", "model.onnx", "packed.onnx", "parity.json", "tokenizer.json"]


def test_packed_rows_that_attend_to_each_other_do_not_pass(trained: TrainedModel, made: Project, settings: Export) -> None:
    reference = ExportedModel(trained.classifier, sketch_projection(384, made.params.model)).eval()
    run = open_run(made / "artifacts/export", PACKED, 0)

    def one_segment_for_two(rows: Sequence[list[int]]) -> Feeds:
        feeds = pack(rows)
        return {**feeds, "segments": np.maximum(feeds["segments"] - 1, 0)}

    good = parity(samples_of(reference, settings), run, pack)
    assert good.max_abs_logit < 1e-4
    batches_of_3 = settings.model_copy(update={"parity_batches": "3"})
    bad = parity(samples_of(reference, batches_of_3), run, one_segment_for_two)
    assert not bad.max_abs_logit < 1e-3


def test_an_encoder_without_position_input_is_served_padded(
    trained: TrainedModel, made: Project, settings: Export, tmp_path: Path
) -> None:
    class WithoutPositions(torch.nn.Module):
        """An encoder with relative positions: it takes ids and a mask only."""

        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.embeddings, self.encoder = encoder.embeddings, encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask)

    projection = sketch_projection(384, made.params.model)
    merged = merge_adapters(load_trained(made / "artifacts/model", made.params.model).classifier)
    other = ExportedModel(TextClassifier(WithoutPositions(merged.encoder), merged.head), projection).eval()
    packed = try_packed(other, samples_of(other, settings), tmp_path, settings)
    assert "position_ids" in packed["why_not"]
    assert list(tmp_path.iterdir()) == []
