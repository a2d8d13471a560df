"""The files that make an exported model, and their digest. Knows no library, so that a question about them is quick."""

import hashlib
from pathlib import Path

MODEL_FILES = ("model.onnx", "tokenizer.json", "model.json")


def model_digest(folder: Path) -> str:
    """Return the SHA-256 over the model's files: equal digests mean equal predictions."""
    whole = hashlib.sha256()
    for name in MODEL_FILES:
        whole.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return whole.hexdigest()
