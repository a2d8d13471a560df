"""Rows to predicted rows: in order, few at once, and a bad row costs no other."""

import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from threading import Event

import numpy as np
import pytest

from pipeline.abstention import NEVER, Abstention
from pipeline.runtime.outputs import ModelOutputs
from serving.batch_prediction.input_rows import InputRow
from serving.batch_prediction.predict_rows import OfflineModel, RowAnswer, Summary, predict_rows


class Echo:
    """Answers each text with itself as the label."""

    labels: Sequence[str] = ("a", "b")

    def __init__(self, chunk: int, calls: int) -> None:
        self.chunk, self.calls, self.is_remote = chunk, calls, False

    def predict(self, texts: Sequence[str]) -> list[RowAnswer]:
        return [RowAnswer(text, 0.75, (0.75, 0.25), 3, "") for text in texts]


class Engine:
    """Stands for a classifier whose engine fails on one text and returns NaN for another."""

    labels = ("a", "b")

    def predict(self, texts: Sequence[str]) -> ModelOutputs:
        if "bomb" in texts:
            raise RuntimeError("shape mismatch\nin node 7")
        shares = np.array([[np.nan, np.nan] if text == "nan" else [0.25, 0.75] for text in texts], np.float32)
        nothing = np.zeros(len(texts), np.float32)
        return ModelOutputs(["b"] * len(texts), shares, np.zeros((len(texts), 1), np.float16), nothing.astype(np.int32), nothing)


def rows(count: int) -> list[InputRow]:
    return [InputRow(line, {"n": line}, None if line % 5 == 0 else f"text {line}", "is empty") for line in range(1, count + 1)]


@pytest.mark.parametrize("calls", [1, 2])
def test_rows_come_out_in_order_and_bad_ones_with_their_line_and_reason(calls: int) -> None:
    predicted = [item for chunk in predict_rows(rows(23), Echo(4, calls)) for item in chunk]
    assert [item.row.line for item in predicted] == list(range(1, 24))
    assert [item.answer.label for item in predicted] == [None if n % 5 == 0 else f"text {n}" for n in range(1, 24)]
    assert predicted[4].answer.reason == "line 5: is empty"


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("count", [100, 10_000])
def test_no_more_rows_are_held_for_a_long_file_than_for_a_short_one(calls: int, count: int) -> None:
    chunk, read, most = 16, 0, 0

    def source() -> Iterator[InputRow]:
        nonlocal read
        for row in rows(count):
            read += 1
            yield row

    written = 0
    for predicted in predict_rows(source(), Echo(chunk, calls)):
        most = max(most, read - written)
        written += len(predicted)
    assert written == read == count
    assert most <= (calls + 1) * chunk


def test_a_text_on_which_the_engine_fails_costs_no_other() -> None:
    model = OfflineModel(Engine(), 2, NEVER)  # type: ignore[arg-type]  # only `labels` and `predict` are used
    texts = [f"text {n}" for n in range(9)]
    texts[3], texts[7] = "bomb", "nan"
    answers = model.predict(texts)
    assert [n for n, answer in enumerate(answers) if answer.label is None] == [3, 7]
    assert answers[3].reason == "the model failed: RuntimeError: shape mismatch"
    assert answers[7].reason == "the model returned no probabilities"
    assert answers[0] == RowAnswer("b", 0.75, [0.25, 0.75], 2, "")
    assert model.predict([]) == []


@pytest.mark.parametrize(("fallback", "label"), [("", None), ("a person", "a person")])
def test_a_row_of_which_the_model_is_unsure_is_predicted_and_counted(fallback: str, label: str | None) -> None:
    model = OfflineModel(Engine(), 2, Abstention(0.8, fallback))  # type: ignore[arg-type]  # only `labels` and `predict` are used
    summary = Summary()
    predicted = list(chain.from_iterable(predict_rows(rows(4), model)))
    summary.add(predicted)
    assert {row.answer for row in (row._replace(answer=row.answer._replace(probabilities=())) for row in predicted)} == {
        RowAnswer(label, 0.75, (), 2, "unsure")
    }
    assert (summary.rows, summary.unsure, summary.unlabelled) == (4, 4, 0)  # an abstention is no fault of the row


def test_a_model_that_answers_no_row_ends_the_run_at_once() -> None:
    class Gone(Echo):
        def predict(self, texts: Sequence[str]) -> list[RowAnswer]:
            raise ConnectionError("gone")

    unread = iter(rows(1000))
    with pytest.raises(ConnectionError, match="gone"):
        for _ in predict_rows(unread, Gone(10, 2)):
            pass
    assert len(list(unread)) >= 970


def test_a_run_that_is_stopped_leaves_a_call_behind_that_waits_for_a_gateway() -> None:
    asked, is_over, ended = Event(), Event(), []

    class Silent(Echo):
        def predict(self, texts: Sequence[str]) -> list[RowAnswer]:
            asked.set()
            is_over.wait(20)
            ended.append(texts)
            return super().predict(texts)

    def source() -> Iterator[InputRow]:
        yield from rows(10)
        assert asked.wait(20)
        raise KeyboardInterrupt  # Ctrl-C

    model = Silent(4, 2)
    model.is_remote = True
    with pytest.raises(KeyboardInterrupt):
        list(predict_rows(source(), model))
    assert ended == []
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "predict")
    is_over.set()


def test_the_summary_counts_and_shows_the_first_reasons() -> None:
    summary = Summary()
    for predicted in predict_rows(rows(100), Echo(8, 1)):
        summary.add(predicted)
    assert (summary.rows, summary.unlabelled) == (100, 20)
    assert summary.first_reasons[:2] == ["line 5: is empty", "line 10: is empty"]
    assert len(summary.first_reasons) == 5
