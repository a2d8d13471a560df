"""Serve the model with FastAPI and torch as a first version does: the control of the serving bench.

It runs one text in each forward pass, in FastAPI's thread pool with torch's default number of threads.
To be fair, gradients are off, adapters are merged and no access log is written.
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


class Request(BaseModel):
    """Hold a text to classify."""

    text: str


class Answer(BaseModel):
    """Hold a prediction."""

    label: str
    confidence: float


def create_app(folder: Path, settings: Model) -> FastAPI:
    """Return an app that serves the model in the folder."""
    trained = load_trained(folder, settings)
    model = merge_adapters(trained.classifier)
    tokenizer = AutoTokenizer.from_pretrained(base_folder(settings))
    app = FastAPI()

    @app.post("/predict")
    def predict(request: Request) -> Answer:
        pieces = tokenizer(request.text, truncation=True, max_length=settings.max_pieces, return_tensors="pt")
        with torch.inference_mode():
            logits = model(pieces["input_ids"], pieces["attention_mask"])
        confidence, index = logits.softmax(dim=-1).max(dim=-1)
        return Answer(label=trained.labels[int(index)], confidence=float(confidence))

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
