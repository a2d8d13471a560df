"""One record for a prediction: its projections, and the shapes that must agree with it."""

from typing import get_args, get_type_hints

import numpy as np
import pytest

from pipeline.runtime.outputs import ModelOutputs
from serving.gateway.schemas import PREDICTION_EXAMPLES, PredictionRecord
from serving.prediction import ModelOutput, Prediction, split_outputs
from serving.prediction_log.segments import SCHEMA

PREDICTION = Prediction(
    1.0, "r", "p-0", "unit", "text", None, 3, 1.5, 2, "champion", "refund", 0.123456789, "other", b"s", b"p", 4.0, True
)


def test_the_answer_has_the_fields_of_the_openapi_document() -> None:
    answer = PREDICTION.as_response()
    assert PredictionRecord.model_validate(answer, strict=True).model_dump(exclude_unset=True) == answer
    assert answer == {
        "id": "p-0",
        "label": "refund",
        "confidence": 0.123457,
        "runner_up": "other",
        "version": 2,
        "role": "champion",
        "cached": True,
    }


def test_the_answer_holds_the_probability_of_every_label_for_callers_that_ask() -> None:
    halves = np.array([0.125, 0.875], np.float16).tobytes()
    answer = PREDICTION._replace(probabilities=halves).as_response(["other", "refund"])
    assert answer["probabilities"] == {"other": 0.125, "refund": 0.875}
    assert PredictionRecord.model_validate(answer, strict=True).model_dump(exclude_unset=True) == answer


@pytest.mark.parametrize(("fallback", "label"), [("", None), ("other", "other")])
def test_an_answer_of_which_the_model_is_unsure_has_a_reason_and_its_label_as_a_suggestion(
    fallback: str, label: str | None
) -> None:
    answer = PREDICTION._replace(abstained=True).as_response((), fallback)
    assert PredictionRecord.model_validate(answer, strict=True).model_dump(exclude_unset=True) == answer
    assert answer == PREDICTION.as_response() | {"label": label, "reason": "unsure", "suggestion": "refund"}


def test_the_examples_of_the_document_are_answers() -> None:
    answered, unsure = (PredictionRecord.model_validate(example, strict=True) for example in PREDICTION_EXAMPLES)
    assert (answered.reason, unsure.label, unsure.reason) == (None, None, "unsure")
    assert PredictionRecord.model_json_schema()["examples"] == PREDICTION_EXAMPLES


def test_the_log_has_a_column_for_each_field() -> None:
    assert SCHEMA.names == list(Prediction._fields)


def test_a_prediction_has_every_field_of_the_models_output() -> None:
    fields = get_type_hints(Prediction)
    assert get_type_hints(ModelOutput).items() <= fields.items()
    assert set(get_args(fields["role"])) == {"champion", "challenger", "shadow"}


def outputs(probabilities: list[list[float]], labels: list[str]) -> ModelOutputs:
    count = len(labels)
    return ModelOutputs(
        labels,
        np.array(probabilities, np.float32),
        np.zeros((count, 2), np.float16),
        np.full(count, 4, np.int32),
        np.full(count, 1.5, np.float32),
    )


def test_outputs_are_split_by_text_with_label_confidence_and_runner_up() -> None:
    first, second = split_outputs(outputs([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], ["b", "a"]), ["a", "b", "c"])
    assert first._replace(confidence=0.7) == ModelOutput(
        "b", 0.7, "c", 4, 1.5, bytes(4), np.array([0.1, 0.7, 0.2], np.float16).tobytes()
    )
    assert (second.label, second.confidence, second.runner_up) == ("a", 0.5, "c")


def test_with_one_class_there_is_no_runner_up() -> None:
    (output,) = split_outputs(outputs([[1.0]], ["a"]), ["a"])
    assert output.runner_up is None


def test_outputs_of_another_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="2 probabilities for 3 labels"):
        split_outputs(outputs([[0.4, 0.6]], ["b"]), ["a", "b", "c"])
