"""Stage `export`: adapters merged in fp32, ONNX, and the parity gate that no model passes by luck.

`model.onnx` takes padded rows. `packed.onnx` takes rows one after the other, without padding; only encoders that can be told
positions and a mask of their own have it, and it is written only when its answers pass the same gate.
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

from pipeline.atomic_write import written_whole
from pipeline.data.records import write_json
from pipeline.errors import RefusedError, run_stage
from pipeline.home import find_home
from pipeline.network.base_model import base_folder
from pipeline.network.checkpoint import Trained, load_trained
from pipeline.network.classifier import Packed, TextClassifier, WithSketch, merge, sketch_projection
from pipeline.params import Export, Model, flatten, integers, load_params
from pipeline.runtime.batches import pack, pad
from pipeline.runtime.sessions import OUTPUTS, SESSIONS, Feeds, Run, open_run
from pipeline.tracking import stage_run

PADDED, PACKED = SESSIONS["onnxruntime-fp32"], SESSIONS["packed-onnxruntime-fp32"]
Form = Callable[[Sequence[list[int]]], Feeds]  # rows → what the graph takes


class Parity(NamedTuple):
    """The largest differences between PyTorch (adapters not merged) and ONNX over all shapes tried."""

    shapes: int
    max_abs_logit: float
    max_abs_sketch: float
    arg_max_equal: bool


def export(classifier: TextClassifier, projection: Tensor, path: Path, settings: Export) -> WithSketch:
    """Write the merged model as ONNX and return it: (B, T) pieces and mask in, logits and sketch out, B and T free."""
    merged = WithSketch(merge(classifier), projection).eval()
    ones = torch.ones(2, 8, dtype=torch.int64)
    free = {0: "batch", 1: "pieces"}
    _write_onnx(merged, {"input_ids": ones, "attention_mask": ones}, free, path, settings)
    return merged


def export_packed(merged: WithSketch, path: Path, settings: Export) -> None:
    """Write the same model for packed rows; raises what the encoder raises when it cannot be told positions or a mask."""
    feeds = {name: torch.from_numpy(array) for name, array in pack([[1, 2, 3], [4, 5, 6, 7, 8]]).items()}
    _write_onnx(Packed(merged).eval(), feeds, {0: "pieces"}, path, settings)


def _write_onnx(model: nn.Module, feeds: dict[str, Tensor], free: dict[int, str], path: Path, settings: Export) -> None:
    axes = {**dict.fromkeys(feeds, free), **{name: {0: "batch"} for name in OUTPUTS}}
    with written_whole(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer doubts shapes and indices that the parity gate then tries one by one
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


def parity(reference: WithSketch, run: Run, form: Form, settings: Export, *, vocabulary: int, longest: int) -> Parity:
    """Compare both on random pieces of every batch size x length, with rows of any length in each batch."""
    rng = np.random.default_rng(0)
    shapes = [(b, t) for b in integers(settings.parity_batches) for t in integers(settings.parity_lengths) if t <= longest]
    gaps: dict[str, list[float]] = {name: [] for name in OUTPUTS}
    same = True
    for batch, most in shapes:
        rows = [
            rng.integers(0, vocabulary, size=length).tolist() for length in (most, *rng.integers(2, most + 1, size=batch - 1))
        ]
        theirs = [array[:batch] for array in run(form(rows))]
        with torch.inference_mode():
            ours = [tensor.numpy() for tensor in reference(*(torch.from_numpy(array) for array in pad(rows).values()))]
        for name, one, other in zip(gaps, ours, theirs, strict=True):
            gaps[name].append(float(np.abs(one - other).max()))
        same = same and bool((ours[0].argmax(axis=1) == theirs[0].argmax(axis=1)).all())
    return Parity(len(shapes), float(np.max(gaps["logits"])), float(np.max(gaps["sketch"])), same)  # np.max keeps NaN


def require(found: Parity, settings: Export) -> None:
    """Raise `RefusedError` unless the exported model answers as the trained one."""
    if found.max_abs_logit <= settings.parity_atol and found.max_abs_sketch <= settings.parity_atol and found.arg_max_equal:
        return  # NaN is not <= anything
    raise RefusedError(
        "the parity gate",
        f"ONNX and PyTorch differ: max |Δlogit| {found.max_abs_logit:.2e}, max |Δsketch| {found.max_abs_sketch:.2e} "
        f"(limit {settings.parity_atol:.0e}), arg-max equal: {found.arg_max_equal}",
        "try another export.opset; do not raise export.parity_atol for a model that is to serve",
    )


def try_packed(merged: WithSketch, reference: WithSketch, folder: Path, settings: Export, **sizes: int) -> dict[str, Any]:
    """What the gate found of `packed.onnx`; or `{"why_not": …}`, and then there is none."""
    path = folder / PACKED.graph
    try:
        export_packed(merged, path, settings)
        found = parity(reference, open_run(folder, PACKED, 0), pack, settings, **sizes)
        require(found, settings)
    except Exception as error:  # whatever an encoder raises that was not made for it; padded rows serve as well
        path.unlink(missing_ok=True)
        return {"why_not": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return found._asdict()


def write(trained: Trained, gate: dict[str, Any], temperature: float, model: Model, origin: dict[str, Any], folder: Path) -> None:
    """What the runtime needs beside the graphs, and the verdicts of the gate."""
    shutil.copy(base_folder(model) / "tokenizer.json", folder / "tokenizer.json")
    card = {"labels": trained.labels, "temperature": temperature, "max_pieces": model.max_pieces, "origin": origin}
    write_json(folder / "model.json", card)
    write_json(folder / "parity.json", gate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--temperature", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    trained = load_trained(args.model, params.model)
    projection = sketch_projection(trained.classifier.head.weight.shape[1], params.model)
    temperature = json.loads(args.temperature.read_text())["temperature"]
    args.out.mkdir(parents=True, exist_ok=True)
    with stage_run("export", flatten(params.export, "export"), find_home(), continues=trained.run_id) as run:
        # merging changes a classifier in place: one is merged and written, the other stays the reference
        merged = export(load_trained(args.model, params.model).classifier, projection, args.out / PADDED.graph, params.export)
        reference = WithSketch(trained.classifier, projection).eval()
        sizes = {"vocabulary": trained.tokenizer.get_vocab_size(), "longest": params.model.max_pieces}
        found = parity(reference, open_run(args.out, PADDED, 0), pad, params.export, **sizes)
        require(found, params.export)
        packed = try_packed(merged, reference, args.out, params.export, **sizes)
        origin = trained.origin | {"mlflow_run_id": run.id or trained.run_id}
        write(trained, {"padded": found._asdict(), "packed": packed}, temperature, params.model, origin, args.out)
        run.metrics({f"export/{name}": float(value) for name, value in found._asdict().items()})
        run.model(args.out)
    told = packed.get("why_not") or f"max |Δlogit| {packed['max_abs_logit']:.1e}"
    print(f"{found.shapes} shapes compared: max |Δlogit| {found.max_abs_logit:.1e}, arg-max equal; packed: {told} → {args.out}")


if __name__ == "__main__":
    run_stage(main)
