"""The control of the serving bench: FastAPI + torch the way people write it first.

The trained model in memory, one text a forward pass, `def predict` in FastAPI's thread pool, torch's default threads.
It is spared what costs such servers more: no gradients are kept, adapters are merged, no access log is written.
"""

import argparse
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer

from pipeline.errors import run_stage
from pipeline.network.base_model import base_folder
from pipeline.network.classifier import merge_adapters
from pipeline.network.trained_model import load_trained
from pipeline.params import Model, load_params


class Question(BaseModel):
    """A request."""

    text: str


class Said(BaseModel):
    """An answer."""

    label: str
    confidence: float


def create_app(folder: Path, settings: Model) -> FastAPI:
    """The app on the model in the folder."""
    trained = load_trained(folder, settings)
    model = merge_adapters(trained.classifier)
    tokenizer = AutoTokenizer.from_pretrained(base_folder(settings))
    app = FastAPI()

    @app.post("/predict")
    def predict(question: Question) -> Said:
        pieces = tokenizer(question.text, truncation=True, max_length=settings.max_pieces, return_tensors="pt")
        with torch.inference_mode():
            logits = model(pieces["input_ids"], pieces["attention_mask"])
        confidence, index = logits.softmax(dim=-1).max(dim=-1)
        return Said(label=trained.labels[int(index)], confidence=float(confidence))

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    uvicorn.run(
        create_app(args.model, load_params().model), host="127.0.0.1", port=args.port, log_level="warning", access_log=False
    )


if __name__ == "__main__":
    run_stage(main)
