"""The check of a loaded version: a model that is right in one large call only is found, whatever it breaks on."""

import doctest
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pipeline.params import Params
from pipeline.runtime.outputs import ModelOutputs
from pipeline.session.golden_answers import GoldenAnswers
from serving.release.live import load_check
from serving.release.live.load_check import LONG_CHARACTERS, find_problem, long_text
from serving.triton.client import BATCH_TEXTS, TritonError

LABELS = ("refund", "track")
GOLDEN = GoldenAnswers(
    "session",
    0.01,
    [f"text {number}" for number in range(24)],
    [LABELS[0]] * 24,
    np.array([[0.75, 0.25]] * 24, np.float32),
)
Change = Callable[[Sequence[str], ModelOutputs], ModelOutputs]


def outputs(texts: Sequence[str]) -> ModelOutputs:
    count = len(texts)
    ones = np.ones(count, np.int32)
    probabilities = np.array([[0.75, 0.25]] * count, np.float32)
    return ModelOutputs([LABELS[0]] * count, probabilities, np.zeros((count, 4), np.float16), ones, ones.astype("f4"))


def problem_of(params: Params, monkeypatch: pytest.MonkeyPatch, change: Change) -> load_check.LoadProblem | None:
    """Return what is found in a model whose answers are changed so."""
    monkeypatch.setattr(load_check, "infer_grpc", lambda _serve, _model, texts: change(texts, outputs(texts)))
    return find_problem(params.serve, "intent-2", GOLDEN)


def less_sure(given: ModelOutputs) -> ModelOutputs:
    return given._replace(probabilities=np.full_like(given.probabilities, 0.5))


def test_a_model_that_answers_as_it_did_offline_has_no_problem(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Sequence[str]] = []

    def note(texts: Sequence[str], given: ModelOutputs) -> ModelOutputs:
        calls.append(texts)
        return given

    assert problem_of(params, monkeypatch, note) is None
    assert {1, 8} <= {len(texts) for texts in calls}
    assert max(len(text) for texts in calls for text in texts) == LONG_CHARACTERS[-1]
    assert all(len(texts) <= BATCH_TEXTS for texts in calls)


@pytest.mark.parametrize(
    ("is_met", "where"),
    [
        (lambda texts: len(texts) == 1, "24 of 24 golden answers differ from the offline ones one text at a time"),
        (lambda texts: len(texts) == 8, "golden answers differ from the offline ones in batches of 8"),
        (lambda texts: len(texts) > 8, "golden answers differ from the offline ones: "),
        (lambda texts: len(texts) > 1 and len(texts[0]) >= 4_000, "a text of 4000 characters: an answer beside it differs"),
    ],
)
def test_other_answers_in_calls_of_one_kind_are_found(
    params: Params, monkeypatch: pytest.MonkeyPatch, is_met: Callable[[Sequence[str]], bool], where: str
) -> None:
    problem = problem_of(params, monkeypatch, lambda texts, given: less_sure(given) if is_met(texts) else given)
    assert problem is not None
    assert where in problem.what
    assert problem.is_golden == ("characters" not in where)


@pytest.mark.parametrize("size", [1, 8, 25])
def test_a_model_that_fails_in_calls_of_one_size_is_found(params: Params, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def fail(texts: Sequence[str], given: ModelOutputs) -> ModelOutputs:
        if len(texts) == size:
            raise TritonError("the model failed: shape")
        return given

    problem = problem_of(params, monkeypatch, fail)
    assert problem is not None
    assert "it did not answer the golden texts" in problem.what


def test_a_model_that_fails_beyond_a_length_is_found(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(texts: Sequence[str], given: ModelOutputs) -> ModelOutputs:
        if max(map(len, texts)) > 1_000:
            raise TritonError("the model failed: out of memory")
        return given

    problem = problem_of(params, monkeypatch, fail)
    assert problem is not None
    assert "it did not answer a text of 4000 characters" in problem.what
    assert not problem.is_golden


@pytest.mark.parametrize("broken", ["label", "number"])
def test_an_empty_answer_to_a_long_text_is_found(params: Params, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def empty(texts: Sequence[str], given: ModelOutputs) -> ModelOutputs:
        if len(texts[0]) < 1_000:
            return given
        no_numbers = np.full_like(given.probabilities, np.nan)
        return given._replace(labels=["", *given.labels[1:]]) if broken == "label" else given._replace(probabilities=no_numbers)

    problem = problem_of(params, monkeypatch, empty)
    assert problem is not None
    assert "a text of 1000 characters: the answer is broken" in problem.what


def test_each_batch_has_a_text_that_no_cache_knows(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []

    def note(texts: Sequence[str], given: ModelOutputs) -> ModelOutputs:
        calls.append(tuple(texts))
        return given

    for _ in range(2):
        problem_of(params, monkeypatch, note)
    batches = [texts for texts in calls if len(texts) > 1 and len(texts[0]) < LONG_CHARACTERS[0]]
    assert len(set(batches)) == len(batches)


def test_a_long_text_has_its_length() -> None:
    assert [len(long_text(GOLDEN.texts, characters)) for characters in LONG_CHARACTERS] == list(LONG_CHARACTERS)
    result = doctest.testmod(load_check)
    assert result.attempted and not result.failed
