"""`make frameworks`: the trained model as a PyTorch program, and the frozen control with scikit-learn.

It runs after `dvc repro`, and `serving.release.frameworks` turns its output into Triton models.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data.records import Example, labels_of, read_examples, write_json
from pipeline.errors import run_stage
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import ExportedModel, TextClassifier, load_encoder, merge_adapters, sketch_projection
from pipeline.network.frozen_encoder import fit_control, frozen_embeddings
from pipeline.network.trained_model import TrainedModel, load_trained
from pipeline.output.plain_text import print_line
from pipeline.params import Params, load_params
from pipeline.stages.export import export_padded


class Normalise(nn.Module):
    """A head that returns the embedding at length 1, which logistic regression is fitted on."""

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, width) → (B, width)."""
        return F.normalize(embedding, dim=-1)


def write_torch(trained: TrainedModel, projection: Tensor, longest: int, exported: Path, folder: Path) -> None:
    """Write `model.pt2`, the merged model as an exported program with free batch and length. It loads without pickle."""
    folder.mkdir(parents=True)
    batch, pieces = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("pieces", min=2, max=longest)
    free = {0: batch, 1: pieces}
    example = (torch.ones(3, 9, dtype=torch.int64), torch.ones(3, 9, dtype=torch.int64))
    model = ExportedModel(merge_adapters(trained.classifier), projection).eval()
    with torch.no_grad():
        program = torch.export.export(model, example, dynamic_shapes={"input_ids": free, "attention_mask": free})
    torch.export.save(program, folder / "model.pt2")
    for name in ("tokenizer.json", "model.json"):
        shutil.copy(exported / name, folder / name)


def write_control(
    trained: TrainedModel, rows: list[Example], params: Params, projection: Tensor, exported: Path, folder: Path
) -> None:
    """Write the frozen encoder as ONNX, and the coefficients of logistic regression on its embeddings as in `evaluate`."""
    folder.mkdir(parents=True)
    embedded = frozen_embeddings([row.text for row in rows], params.model, params.evaluate.batch_size)
    index = {label: i for i, label in enumerate(trained.labels)}
    truth = np.array([index[label] for label in labels_of(rows)])
    fitted = fit_control(embedded, truth, params.evaluate.control_c)
    np.savez(folder / "control.npz", coefficients=fitted.coef_, intercepts=fitted.intercept_, classes=fitted.classes_)
    encoder = load_encoder(base_folder(params.model))
    embedding = TextClassifier(encoder, Normalise())  # type: ignore[arg-type]  # this head returns embeddings, not logits
    export_padded(embedding, projection, folder / "encoder.onnx", params.export)
    shutil.copy(exported / "tokenizer.json", folder / "tokenizer.json")
    card = json.loads((exported / "model.json").read_text(encoding="utf-8"))
    write_json(folder / "model.json", card | {"temperature": 1.0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "split", "exported", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    trained = load_trained(args.model, params.model)
    projection = sketch_projection(trained.classifier.head.weight.shape[1], params.model)
    shutil.rmtree(args.out, ignore_errors=True)
    write_control(trained, read_examples(args.split / "train.parquet"), params, projection, args.exported, args.out / "control")
    # last, because merging changes the classifier in place
    write_torch(trained, projection, params.model.max_pieces, args.exported, args.out / "torch")
    print_line(f"a PyTorch program and the scikit-learn control → {args.out}")


if __name__ == "__main__":
    run_stage(main)
