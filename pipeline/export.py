"""Stage `export`: adapters merged in fp32, ONNX, and the parity gate that no model passes by luck."""

import argparse
import json
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from pipeline.errors import RefusedError, run_stage
from pipeline.home import find_home
from pipeline.learning.base import base_folder
from pipeline.learning.checkpoint import Trained, load_trained
from pipeline.learning.model import TextClassifier, WithSketch, merge, sketch_projection
from pipeline.params import Export, Model, flatten, integers, load_params
from pipeline.records import write_json, written_whole
from pipeline.tracking import stage_run


class Parity(NamedTuple):
    """The largest differences between PyTorch (adapters not merged) and ONNX over all shapes tried."""

    shapes: int
    max_abs_logit: float
    max_abs_sketch: float
    arg_max_equal: bool


def export(classifier: TextClassifier, projection: Tensor, path: Path, settings: Export) -> None:
    """Write the merged model as ONNX: (B, T) pieces and mask in, logits and sketch out, B and T free."""
    merged = WithSketch(merge(classifier), projection).eval()
    example = (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64))
    free = {0: "batch", 1: "pieces"}
    with written_whole(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer doubts shapes and indices that the parity gate then tries one by one
        torch.onnx.export(
            merged,
            example,
            str(part),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "sketch"],
            dynamic_axes={"input_ids": free, "attention_mask": free, "logits": {0: "batch"}, "sketch": {0: "batch"}},
            opset_version=settings.opset,
            dynamo=False,
        )


def parity(reference: WithSketch, path: Path, settings: Export, *, vocabulary: int, longest: int) -> Parity:
    """Compare both on random pieces of every batch size x length, with ragged masks inside each batch."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    shapes = [(b, t) for b in integers(settings.parity_batches) for t in integers(settings.parity_lengths) if t <= longest]
    gaps: dict[str, list[float]] = {"logits": [], "sketch": []}
    same = True
    for batch, pieces in shapes:
        ids = rng.integers(0, vocabulary, size=(batch, pieces))
        lengths = rng.integers(2, pieces + 1, size=batch)
        mask = (np.arange(pieces) < lengths[:, None]).astype(np.int64)
        theirs = session.run(list(gaps), {"input_ids": ids, "attention_mask": mask})
        with torch.inference_mode():
            ours = [tensor.numpy() for tensor in reference(torch.from_numpy(ids), torch.from_numpy(mask))]
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


def write(trained: Trained, found: Parity, temperature: float, model: Model, origin: dict[str, Any], folder: Path) -> None:
    """What the runtime needs beside the graph, and the verdict of the gate."""
    shutil.copy(base_folder(model) / "tokenizer.json", folder / "tokenizer.json")
    card = {"labels": trained.labels, "temperature": temperature, "max_pieces": model.max_pieces, "origin": origin}
    write_json(folder / "model.json", card)
    write_json(folder / "parity.json", found._asdict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--temperature", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    trained = load_trained(args.model, params.model)
    width = trained.classifier.head.weight.shape[1]
    projection = sketch_projection(width, params.model)
    temperature = json.loads(args.temperature.read_text())["temperature"]
    args.out.mkdir(parents=True, exist_ok=True)
    with stage_run("export", flatten(params.export, "export"), find_home(), continues=trained.run_id) as run:
        # merging changes a classifier in place: one is merged and written, the other stays the reference
        export(load_trained(args.model, params.model).classifier, projection, args.out / "model.onnx", params.export)
        reference = WithSketch(trained.classifier, projection).eval()
        vocabulary = trained.tokenizer.get_vocab_size()
        found = parity(reference, args.out / "model.onnx", params.export, vocabulary=vocabulary, longest=params.model.max_pieces)
        require(found, params.export)
        origin = trained.origin | {"mlflow_run_id": run.id or trained.run_id}
        write(trained, found, temperature, params.model, origin, args.out)
        run.metrics({f"export/{name}": float(value) for name, value in found._asdict().items()})
        run.model(args.out)
    print(f"{found.shapes} shapes compared: max |Δlogit| {found.max_abs_logit:.1e}, arg-max equal → {args.out}/model.onnx")


if __name__ == "__main__":
    run_stage(main)
