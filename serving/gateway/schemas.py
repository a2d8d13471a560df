"""Requests and answers of the HTTP API: their records, and the checks that raise an `ApiError`."""

from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.params import Params
from pipeline.runtime.text import clean
from serving.gateway.errors import ApiError
from serving.processes.http_body import BodyError, read_body

Parsed = TypeVar("Parsed", bound=BaseModel)
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


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


class PredictRequest(Record):
    """One text or several, for one unit (a customer, a session), which keeps its version while the weights stay the same."""

    text: str = Field("", description="one text; give this or `texts`", json_schema_extra=_without_default)
    texts: list[str] = Field(default_factory=list, min_length=1, description="several texts; give this or `text`")
    unit: Name = Field("", description="sticky key; without it each request is its own unit", json_schema_extra=_without_default)
    version: Whole = Field(
        0, ge=1, description="a version that is served; by default routing chooses", json_schema_extra=_without_default
    )


class JobRequest(PredictRequest):
    """Texts to answer later."""

    callback_url: str = Field("", min_length=1, description="gets a signed POST when the job has ended", json_schema_extra=_url)


class FeedbackRequest(Record):
    """The label that a prediction should have had."""

    id: str = Field(pattern=r"^[0-9a-f-]{1,64}$", description="the id of a prediction")
    label: Name
    source: Annotated[str, Field(min_length=1, max_length=58, pattern=r"^[^\x00]+$")] = Field(
        "", description="a remark; the labeller is the caller", json_schema_extra=_without_default
    )


class PredictionRecord(BaseModel):
    """The answer to one text: `Prediction.as_response`."""

    id: str
    label: str
    confidence: float
    runner_up: str | None
    version: int
    role: Literal["champion", "challenger"]
    cached: bool


class PredictResponse(BaseModel):
    """One prediction for each text, in order."""

    request_id: str
    predictions: list[PredictionRecord]


class JobResponse(BaseModel):
    """A job with its status; `predictions` once it is done."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    attempts: int
    predictions: list[PredictionRecord] | None
    error: str | None
    created_at: float
    finished_at: float | None
    callback_status: str


class FeedbackResponse(BaseModel):
    """`label`: one of the champion's labels; `proposal`: any other, stored until enough people propose it."""

    id: str
    kind: Literal["label", "proposal"]


class RoutesResponse(BaseModel):
    """The current routing: which versions answer, and for which share."""

    revision: int
    champion: int | None
    challenger: int | None
    challenger_weight: float
    shadow_share: float
    labels: list[str]


class ErrorBody(BaseModel):
    """A code for programs and a message that says what to do."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """Every answer that is not 2xx."""

    request_id: str
    error: ErrorBody


def request_schema(record: type[PredictRequest], *, max_texts: int, max_chars: int) -> dict[str, Any]:
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
        first: Any = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, "not_json", first["msg"]) from None
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError(422, "not_valid", f"{where}: {first['msg']}") from None


def texts_of(request: PredictRequest, *, max_texts: int, max_chars: int) -> list[str]:
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
