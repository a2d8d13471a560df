"""Requests and answers of the HTTP API: their records, and the checks that raise an `ApiError`."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from pipeline.params import Params
from pipeline.runtime.text import clean
from serving.gateway.errors import ApiError
from serving.processes.http_body import BodyError, read_body

Parsed = TypeVar("Parsed", bound=BaseModel)
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]

MAX_NAME_CHARS = 100  # of a caller's field, in a message
LARGEST_OUTCOME = 1e12  # squares of it can still be added

# Requests that are accepted as they stand, for /docs. An id exists only once the gateway has given it: the links, OpenAPI's own
# form for that, name the place of the id in an answer, and the page copies it into the next request.
PREDICT_EXAMPLES: dict[str, dict[str, Any]] = {
    "one text": {"text": "where is my parcel?"},
    "several texts of a customer": {"texts": ["where is my parcel?", "the kettle leaks"], "unit": "customer-7"},
}
JOB_EXAMPLES: dict[str, dict[str, Any]] = {"texts to answer later": {"texts": ["where is my parcel?", "the kettle leaks"]}}
PREDICTION_EXAMPLES: list[JsonValue] = [  # an answer, and one of which the model is unsure
    {
        "id": "6a129c1f5f1c9a3e7b2d4c6a-3-0-8e0f1a2b5f1c9a3e",
        "label": "track_order",
        "confidence": 0.91,
        "runner_up": "parcel_missing",
        "version": 3,
        "role": "champion",
        "cached": False,
    },
    {
        "id": "6a129c1f5f1c9a3e7b2d4c6a-3-1-2b5f1c9a3e8e0f1a",
        "label": None,
        "confidence": 0.32,
        "runner_up": "missing_parts",
        "version": 3,
        "role": "champion",
        "cached": False,
        "reason": "unsure",
        "suggestion": "discount_code",
    },
]
FEEDBACK_EXAMPLES: dict[str, dict[str, Any]] = {
    "the right label of a prediction": {"id": "6a129c1f5f1c9a3e7b2d4c6a-3-0-8e0f1a2b5f1c9a3e", "label": "track_order"}
}
FEEDBACK_LINK = {
    "operationId": "create_feedback",
    "requestBody": {name: f"$response.body#/predictions/0/{name}" for name in ("id", "label")},
}
OUTCOME_EXAMPLES: dict[str, dict[str, Any]] = {
    "it was clicked, or solved": {"id": "6a129c1f5f1c9a3e7b2d4c6a-3-0-8e0f1a2b5f1c9a3e", "value": True}
}
OUTCOME_LINK = {"operationId": "create_outcome", "requestBody": {"id": "$response.body#/predictions/0/id"}}
WITHDRAWAL_LINK = {"operationId": "delete_feedback", "parameters": {"id": "$response.body#/id"}}
JOB_LINK = {"operationId": "get_job", "parameters": {"id": "$response.body#/id"}}


class Record(BaseModel):
    """Strict: a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _whole(value: Any) -> Any:
    """Accept 3.0 as an integer: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def _without_default(schema: dict[str, Any]) -> None:
    """Drop the default: a key that may be left out may not be null."""
    schema.pop("default", None)


def _url(schema: dict[str, Any]) -> None:
    """Describe URLs that are always accepted. Full public addresses are accepted too."""
    _without_default(schema)
    schema["pattern"] = r"^https?://[A-Za-z][A-Za-z0-9-]{0,20}[A-Za-z0-9](\.[A-Za-z]{2,8}){1,3}(:[1-9][0-9]{0,3})?(/[!-~]*)?$"


class TextsRequest(Record):
    """One text or several, for one unit (a customer, a session), which keeps its version while the weights stay the same."""

    text: str = Field("", description="one text; give this or `texts`", json_schema_extra=_without_default)
    texts: list[str] = Field(default_factory=list, min_length=1, description="several texts; give this or `text`")
    unit: Name = Field("", description="sticky key; without it each request is its own unit", json_schema_extra=_without_default)
    version: Whole = Field(
        0, ge=1, description="a version that is served; by default routing chooses", json_schema_extra=_without_default
    )


class PredictRequest(TextsRequest):
    """Texts to answer now."""

    probabilities: bool = Field(
        False, description="return the probability of every label too", json_schema_extra=_without_default
    )


class JobRequest(TextsRequest):
    """Texts to answer later."""

    callback_url: str = Field("", min_length=1, description="gets a signed POST when the job has ended", json_schema_extra=_url)


class FeedbackRequest(Record):
    """The label that a prediction should have had."""

    id: str = Field(pattern=r"^[0-9a-f-]{1,64}$", description="the id of a prediction")
    label: Name
    source: Annotated[str, Field(min_length=1, max_length=58, pattern=r"^[^\x00]+$")] = Field(
        "", description="a remark; the labeller is the caller", json_schema_extra=_without_default
    )


class FeedbackWithdrawal(Record):
    """Which of the caller's own labels of a prediction are taken back."""

    label: Name = Field("", description="only this label; without it all", json_schema_extra=_without_default)
    source: Annotated[str, Field(min_length=1, max_length=58, pattern=r"^[^\x00]+$")] = Field(
        "", description="as it was given with the label", json_schema_extra=_without_default
    )


class OutcomeRequest(Record):
    """What came of a prediction: clicked or not, solved or not, minutes, money."""

    id: str = Field(pattern=r"^[0-9a-f-]{1,64}$", description="the id of a prediction")
    value: bool | Annotated[float, Field(ge=-LARGEST_OUTCOME, le=LARGEST_OUTCOME, allow_inf_nan=False)] = Field(
        description="true and false count as 1 and 0"
    )


class PredictionRecord(BaseModel):
    """The answer to one text: `Prediction.as_response`."""

    model_config = ConfigDict(json_schema_extra={"examples": PREDICTION_EXAMPLES})

    id: str = Field(examples=["6a129c1f5f1c9a3e7b2d4c6a-3-0-8e0f1a2b5f1c9a3e"])
    label: str | None = Field(
        examples=["track_order"], description="null, or the version's fallback label, where the model abstained"
    )
    confidence: float = Field(examples=[0.91], description="calibrated probability of the model's own label")
    runner_up: str | None = Field(examples=["delivery_problem"])
    version: int = Field(examples=[3])
    role: Literal["champion", "challenger"] = Field(examples=["champion"])
    cached: bool = Field(examples=[False])
    probabilities: dict[str, float] | None = Field(
        None, description="of each label, to three digits, if asked for", examples=[None]
    )
    reason: Literal["unsure"] | None = Field(
        None, description="only where the model abstained: its confidence is below the version's threshold", examples=[None]
    )
    suggestion: str | None = Field(
        None, description="only where the model abstained: the label that it would have given", examples=[None]
    )


class PredictResponse(BaseModel):
    """One prediction for each text, in order."""

    request_id: str = Field(examples=["6a129c1f5f1c9a3e7b2d4c6a"])
    predictions: list[PredictionRecord]


class JobResponse(BaseModel):
    """A job with its status; `predictions` once it is done."""

    id: str = Field(examples=["0d9e8c7b6a5f4e3d2c1b0a9988776655"])
    status: Literal["queued", "running", "done", "failed"] = Field(examples=["queued"])
    attempts: int = Field(examples=[0])
    predictions: list[PredictionRecord] | None = Field(examples=[None])
    error: str | None = Field(examples=[None])
    created_at: float = Field(examples=[1790000000.0], description="seconds since 1970")
    finished_at: float | None = Field(examples=[None], description="seconds since 1970")
    callback_status: str = Field(examples=["none"])


class FeedbackResponse(BaseModel):
    """`label`: one of the champion's labels; `proposal`: any other, stored until enough people propose it."""

    id: str = Field(examples=["6a129c1f5f1c9a3e7b2d4c6a-3-0-8e0f1a2b5f1c9a3e"])
    kind: Literal["label", "proposal"] = Field(examples=["label"])


class OutcomeResponse(BaseModel):
    """The outcome as it is stored."""

    id: str = Field(examples=["6a129c1f5f1c9a3e7b2d4c6a-3-0-8e0f1a2b5f1c9a3e"])
    value: float = Field(examples=[1.0])


class WithdrawalResponse(BaseModel):
    """How many labels were in force and no longer are; 0 for labels that were taken back before."""

    id: str = Field(examples=["6a129c1f5f1c9a3e7b2d4c6a-3-0-8e0f1a2b5f1c9a3e"])
    withdrawn: int = Field(examples=[1])


class RoutesResponse(BaseModel):
    """The current routing: which versions answer, and for which share."""

    revision: int = Field(examples=[5])
    champion: int | None = Field(examples=[3])
    challenger: int | None = Field(examples=[None])
    challenger_weight: float = Field(examples=[0.0])
    shadow_share: float = Field(examples=[0.0])
    labels: list[str] = Field(examples=[["delivery_problem", "track_order"]])


class ErrorBody(BaseModel):
    """A code for programs and a message that says what to do."""

    code: str = Field(examples=["not_valid"])
    message: str = Field(
        examples=["there is no field `txt`: did you mean `text`? Fields: text, texts, unit, version, probabilities"]
    )


class ErrorResponse(BaseModel):
    """Every answer that is not 2xx."""

    request_id: str = Field(examples=["6a129c1f5f1c9a3e7b2d4c6a"])
    error: ErrorBody


def request_schema(record: type[TextsRequest], *, max_texts: int, max_chars: int) -> dict[str, Any]:
    """Return the JSON schema of a request for predictions, with the limits of params."""
    schema = record.model_json_schema()
    text = {"type": "string", "minLength": 1, "maxLength": max_chars, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}
    schema["properties"]["text"] |= text
    schema["properties"]["texts"] |= {"items": text, "maxItems": max_texts}
    return schema | {"oneOf": [{"required": ["text"]}, {"required": ["texts"]}]}


async def receive_body(request: Request, params: Params) -> bytes:
    """Return the whole body; raise the `ApiError` that says what is wrong with it."""
    limit, within_s = params.gateway.max_body_bytes, params.http.body_within_s
    try:
        return await read_body(request.scope, request.receive, max_bytes=limit, within_s=within_s)
    except BodyError as error:
        raise ApiError(error.status, error.code, str(error), 1 if error.status == 503 else None) from None


def parse(record: type[Parsed], body: bytes) -> Parsed:
    """Return the record in a JSON body; raise `ApiError` 400 when it is not JSON, 422 when it is not this record."""
    try:
        return record.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        if faults[0]["type"] == "json_invalid":
            raise ApiError(400, "not_json", faults[0]["msg"]) from None
        raise ApiError(422, "not_valid", _explain(faults, list(record.model_fields))) from None


def _explain(faults: Sequence[ErrorDetails], fields: list[str]) -> str:
    """Return the cause of the first fault, and the fields that exist. A misspelt field comes first: it explains a missing one."""
    first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])[:MAX_NAME_CHARS]
    exist = f"Fields: {', '.join(fields)}"
    if first["type"] == "extra_forbidden":
        near = get_close_matches(where.lower(), fields, n=1)
        return f"there is no field `{where}`{f': did you mean `{near[0]}`?' if near else '.'} {exist}"
    return f"{where or 'body'}: {first['msg']}" + ("" if where and first["type"] != "missing" else f". {exist}")


def texts_of(request: TextsRequest, *, max_texts: int, max_chars: int) -> list[str]:
    """Return the texts, cleaned; raise `ApiError` 422 or 413 that names the first unusable one."""
    given = {"text", "texts"} & request.model_fields_set
    if len(given) != 1:
        raise ApiError(422, "not_valid", "give either `text` or `texts`")
    texts = [request.text] if "text" in given else request.texts
    if len(texts) > max_texts:
        raise ApiError(413, "too_many_texts", f"{len(texts)} texts are more than {max_texts}; send several calls, or a job")
    return [_cleaned_text(number, text, max_chars) for number, text in enumerate(texts)]


def _cleaned_text(number: int, text: str, max_chars: int) -> str:
    if len(text) > max_chars:
        raise ApiError(422, "text_too_long", f"texts.{number} has {len(text)} characters, more than {max_chars}")
    if "\x00" in text:
        raise ApiError(422, "text_not_valid", f"texts.{number} contains a NUL character")
    cleaned = clean(text)
    if not cleaned:
        raise ApiError(422, "text_empty", f"texts.{number} has no visible characters")
    return cleaned
