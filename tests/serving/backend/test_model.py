"""Triton's model: a request on which it fails fails alone."""

import importlib
import sys
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest


class Answer(NamedTuple):
    """A response: tensors, or an error."""

    tensors: list[tuple[str, Any]] | None = None
    error: str | None = None


class Request(NamedTuple):
    """A request for the label of texts."""

    texts: list[str]

    def requested_output_names(self) -> list[str]:
        return ["label"]


class FailsOnLongTexts:
    """A classifier that raises for a text with more pieces than it has positions."""

    def predict(self, texts: list[str]) -> Any:
        if any(len(text) > 10 for text in texts):
            raise IndexError("index out of range in self")
        rows = np.zeros((len(texts), 1))
        return SimpleNamespace(labels=list(texts), probabilities=rows, sketch=rows, pieces=rows, pieces_per_word=rows)


def test_a_text_on_which_the_model_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = SimpleNamespace(
        InferenceResponse=lambda tensors=None, error=None: Answer(tensors, error),
        TritonError=str,
        Tensor=lambda name, array: (name, array.reshape(-1).tolist()),
        get_input_tensor_by_name=lambda request, _name: SimpleNamespace(
            as_numpy=lambda: np.array([text.encode() for text in request.texts], dtype=object)
        ),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    monkeypatch.delitem(sys.modules, "serving.backend.model", raising=False)
    model = importlib.import_module("serving.backend.model").TritonPythonModel()
    model.classifier = FailsOnLongTexts()
    answers = model.execute([Request(["one"]), Request(["a text that is too long"]), Request(["two", "three"])])
    assert [answer.error for answer in answers] == [None, "the model failed: IndexError('index out of range in self')", None]
    assert answers[2].tensors == [("label", ["two", "three"])]
