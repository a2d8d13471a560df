"""Embeddings of the frozen encoder and logistic regression on them: the basis of controls and label spreading."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from pipeline.network.base_model import base_folder, check_sizes
from pipeline.network.classifier import CosineHead, TextClassifier, load_encoder
from pipeline.network.inference import infer_in_batches
from pipeline.params import Model
from pipeline.runtime.pieces import load_tokenizer, to_pieces


def frozen_embeddings(texts: Sequence[str], model: Model, batch_size: int, progress: str | None = None) -> NDArray[np.float32]:
    """Return (N, width) unit-length embeddings of the untrained base encoder, in fp32."""
    base = base_folder(model)
    check_sizes(base, model)
    pieces = to_pieces(load_tokenizer(base, model.max_pieces), list(texts))
    frozen = TextClassifier(load_encoder(base), CosineHead(1, 1, 1.0)).eval()
    embedded = infer_in_batches(frozen.embed, pieces, batch_size=batch_size, precision="fp32", progress=progress)
    return np.asarray(F.normalize(embedded, dim=-1).numpy(), dtype=np.float32)


def fit_control(embeddings: NDArray[np.float32], truth: NDArray[np.int64], c: float) -> LogisticRegression:
    """Fit the control: logistic regression on frozen embeddings (N, width); `truth` (N,) holds class indices."""
    return LogisticRegression(C=c, max_iter=2000).fit(embeddings, truth)
