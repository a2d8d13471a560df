"""Stage `export`: merge the adapters in fp32, write ONNX, and compare it with PyTorch in the parity gate.

`model.onnx` takes padded rows. `packed.onnx` takes rows concatenated without padding. It needs an encoder that accepts
explicit positions and a block mask, and it is written only when it passes the same gate.
"""

import argparse
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.atomic_write import atomic_write
from pipeline.data.records import write_json
from pipeline.errors import RefusedError, run_stage
from pipeline.home import find_home
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import ExportedModel, PackedModel, TextClassifier, merge_adapters, sketch_projection
from pipeline.network.trained_model import TrainedModel, load_trained
from pipeline.output.plain_text import print_lines
from pipeline.params import Export, Model, Params, flatten, integers, load_params
from pipeline.runtime.batches import pack, pad
from pipeline.runtime.sessions import OUTPUTS, SESSIONS, Feeds, Floats, GraphRun, open_run
from pipeline.tracking.runs import Run, stage_run

PADDED, PACKED = SESSIONS["onnxruntime-fp32"], SESSIONS["packed-onnxruntime-fp32"]
Collate = Callable[[Sequence[list[int]]], Feeds]  # rows → inputs of the graph


class Parity(NamedTuple):
    """The largest differences between PyTorch (adapters not merged) and ONNX over all shapes."""

    shapes: int
    max_abs_logit: float
    max_abs_sketch: float
    arg_max_equal: bool


class ParitySample(NamedTuple):
    """A batch of random pieces with PyTorch's outputs."""

    rows: list[list[int]]
    logits: Floats  # (B, classes)
    sketch: Floats  # (B, sketch_size)


class Exported(NamedTuple):
    """Parity of both graphs; `packed` holds `{"why_not": …}` when there is no packed graph."""

    padded: Parity
    packed: dict[str, Any]


def export(trained: TrainedModel, params: Params, folder: Path) -> Exported:
    """Write `model.onnx` and, where the encoder allows it, `packed.onnx`. Raise `RefusedError` when the parity gate fails.

    The reference outputs are computed first, because the adapters of `trained` are then merged in place.
    """
    settings = params.export
    projection = sketch_projection(trained.classifier.head.weight.shape[1], params.model)
    reference = ExportedModel(trained.classifier, projection).eval()
    vocabulary = trained.tokenizer.get_vocab_size()
    samples = parity_samples(reference, settings, vocabulary=vocabulary, longest=params.model.max_pieces)
    merged = export_padded(trained.classifier, projection, folder / PADDED.graph, settings)
    padded = parity(samples, open_run(folder, PADDED, 0), pad)
    require_parity(padded, settings)
    return Exported(padded, try_packed(merged, samples, folder, settings))


def export_padded(classifier: TextClassifier, projection: Tensor, path: Path, settings: Export) -> ExportedModel:
    """Write the merged model as ONNX and return it: (B, T) pieces and mask in, logits and sketch out, B and T free."""
    merged = ExportedModel(merge_adapters(classifier), projection).eval()
    ones = torch.ones(2, 8, dtype=torch.int64)
    free = {0: "batch", 1: "pieces"}
    _write_onnx(merged, {"input_ids": ones, "attention_mask": ones}, free, path, settings)
    return merged


def export_packed(merged: ExportedModel, path: Path, settings: Export) -> None:
    """Write the same model for packed rows; an encoder that accepts no positions or mask raises its own error."""
    feeds = {name: torch.from_numpy(array) for name, array in pack([[1, 2, 3], [4, 5, 6, 7, 8]]).items()}
    _write_onnx(PackedModel(merged).eval(), feeds, {0: "pieces"}, path, settings)


def _write_onnx(model: nn.Module, feeds: dict[str, Tensor], free: dict[int, str], path: Path, settings: Export) -> None:
    axes = {**dict.fromkeys(feeds, free), **{name: {0: "batch"} for name in OUTPUTS}}
    with atomic_write(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of shapes and indices that the parity gate then tests
        torch.onnx.export(
            model,
            tuple(feeds.values()),
            str(part),
            input_names=list(feeds),
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=settings.opset,
            dynamo=False,
        )


def parity_shapes(settings: Export, longest: int) -> list[tuple[int, int]]:
    """Return batch sizes with lengths: each size and each length that the model reads, and the largest batch twice.

    A size or a length that tracing has fixed fails with every partner, so they need not all meet. Many rows get few pieces and
    the reverse, which costs a tenth of all combinations; the last shape is the largest batch at a middling length.
    """
    batches = sorted(integers(settings.parity_batches))
    lengths = sorted((most for most in integers(settings.parity_lengths) if most <= longest), reverse=True)
    count = max(len(batches), len(lengths))
    pairs = [(batches[i % len(batches)], lengths[i % len(lengths)]) for i in range(count)] if lengths else []
    return list(dict.fromkeys([*pairs, *((batches[-1], most) for most in lengths[(len(lengths) - 1) // 2 :][:1])]))


def parity_samples(reference: ExportedModel, settings: Export, *, vocabulary: int, longest: int) -> list[ParitySample]:
    """Draw random pieces of every shape, rows of different lengths in a batch, and run PyTorch on them once."""
    rng = np.random.default_rng(0)
    samples = []
    for batch, most in parity_shapes(settings, longest):
        lengths = (most, *rng.integers(2, most + 1, size=batch - 1))
        rows = [rng.integers(0, vocabulary, size=length).tolist() for length in lengths]
        with torch.inference_mode():
            logits, sketch = reference(*(torch.from_numpy(array) for array in pad(rows).values()))
        samples.append(ParitySample(rows, logits.numpy(), sketch.numpy()))
    return samples


def parity(samples: Sequence[ParitySample], run: GraphRun, collate: Collate) -> Parity:
    """Compare a graph's outputs with those of PyTorch."""
    logit_gaps, sketch_gaps, arg_max_equal = [], [], True
    for rows, expected_logits, expected_sketch in samples:
        logits, sketch = (array[: len(rows)] for array in run(collate(rows)))
        logit_gaps.append(np.abs(expected_logits - logits).max())
        sketch_gaps.append(np.abs(expected_sketch - sketch).max())
        arg_max_equal &= bool((expected_logits.argmax(axis=1) == logits.argmax(axis=1)).all())
    return Parity(len(samples), float(np.max(logit_gaps)), float(np.max(sketch_gaps)), arg_max_equal)  # np.max keeps NaN


def require_parity(measured: Parity, settings: Export) -> None:
    """Raise `RefusedError` when the outputs of the exported model differ from those of the trained one."""
    limit = settings.parity_atol
    if measured.max_abs_logit <= limit and measured.max_abs_sketch <= limit and measured.arg_max_equal:
        return  # NaN is not <= anything
    raise RefusedError(
        "the parity gate",
        f"ONNX and PyTorch differ: max |Δlogit| {measured.max_abs_logit:.2e}, max |Δsketch| {measured.max_abs_sketch:.2e} "
        f"(limit {limit:.0e}), arg-max equal: {measured.arg_max_equal}",
        "try another export.opset; do not raise export.parity_atol for a model that is to serve",
    )


def try_packed(merged: ExportedModel, samples: Sequence[ParitySample], folder: Path, settings: Export) -> dict[str, Any]:
    """Write `packed.onnx` and return its parity as a dictionary; return `{"why_not": …}` and leave no file when it fails."""
    path = folder / PACKED.graph
    try:
        export_packed(merged, path, settings)
        measured = parity(samples, open_run(folder, PACKED, 0), pack)
        require_parity(measured, settings)
    except Exception as error:  # encoders without support raise anything; padded rows serve as well
        path.unlink(missing_ok=True)
        return {"why_not": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return measured._asdict()


def write(
    trained: TrainedModel, exported: Exported, temperature: float, model: Model, origin: dict[str, Any], folder: Path
) -> None:
    """Write the tokenizer, the model card and `parity.json`, which the runtime needs besides the graphs."""
    shutil.copy(base_folder(model) / "tokenizer.json", folder / "tokenizer.json")
    card = {"labels": trained.labels, "temperature": temperature, "max_pieces": model.max_pieces, "origin": origin}
    write_json(folder / "model.json", card)
    write_json(folder / "parity.json", {"padded": exported.padded._asdict(), "packed": exported.packed})


def log_parity(run: Run, measured: Parity) -> None:
    """Log how much the exported model differs from the trained one, under names for people."""
    run.metrics(
        {
            "export/max_logit_difference": measured.max_abs_logit,
            "export/max_sketch_difference": measured.max_abs_sketch,
            "export/same_labels": float(measured.arg_max_equal),
        }
    )


def summary(exported: Exported, folder: Path) -> str:
    """Return one line for people: the measured differences, and why there is no packed graph when there is none."""
    padded, packed = exported
    packed_result = packed.get("why_not") or f"max |Δlogit| {packed['max_abs_logit']:.1e}"
    compared = f"{padded.shapes} shapes compared: max |Δlogit| {padded.max_abs_logit:.1e}, arg-max equal"
    return f"{compared}; packed: {packed_result} → {folder}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--temperature", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    trained = load_trained(args.model, params.model)
    temperature = json.loads(args.temperature.read_text())["temperature"]
    args.out.mkdir(parents=True, exist_ok=True)
    with stage_run("export", flatten(params.export, "export"), find_home(), continues=trained.run_id) as run:
        exported = export(trained, params, args.out)
        origin = trained.origin | {"mlflow_run_id": run.id or trained.run_id}
        write(trained, exported, temperature, params.model, origin, args.out)
        log_parity(run, exported.padded)
        run.model(args.out)
    print_lines(summary(exported, args.out))


if __name__ == "__main__":
    run_stage(main)
