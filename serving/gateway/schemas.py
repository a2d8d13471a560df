"""What the gateway takes and gives: records of the HTTP API, their checks, and errors with a code that clients can tell apart."""

from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.runtime.text import clean
from serving.processes.http_body import BodyCutOffError, BodyTooLargeError, BodyTooSlowError, read_body

BODY_TIMEOUT_S = 10.0
Parsed = TypeVar("Parsed", bound=BaseModel)
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


class Record(BaseModel):
    """Strict: a misspelt key is told, not passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is an integer there."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def _without_default(schema: dict[str, Any]) -> None:
    """A key that may be left out is not one that may be null."""
    schema.pop("default", None)


def _url(schema: dict[str, Any]) -> None:
    """What is always taken; full public addresses are, too."""
    _without_default(schema)
    schema["pattern"] = r"^https?://[A-Za-z][A-Za-z0-9-]{0,20}[A-Za-z0-9](\.[A-Za-z]{2,8}){1,3}(:[1-9][0-9]{0,3})?(/[!-~]*)?$"


class PredictRequest(Record):
    """One text or several, for one unit (a customer, a session): a unit always gets the same version while weights stand."""

    text: str = Field("", description="one text; give this or `texts`", json_schema_extra=_without_default)
    texts: list[str] = Field(default_factory=list, min_length=1, description="several texts; give this or `text`")
    unit: Name = Field("", description="sticky key; without it each request is its own unit", json_schema_extra=_without_default)
    version: Whole = Field(
        0, ge=1, description="one that is served; by default routing chooses", json_schema_extra=_without_default
    )

    @property
    def asked_unit(self) -> str | None:
        """The unit, when one was given."""
        return self.unit or None

    @property
    def asked_version(self) -> int | None:
        """The version, when one was given."""
        return self.version or None


class JobRequest(PredictRequest):
    """Texts to be answered later."""

    callback_url: str = Field(
        "", min_length=1, description="told by a signed POST when the job has ended", json_schema_extra=_url
    )


class FeedbackRequest(Record):
    """What a prediction should have said."""

    id: str = Field(pattern=r"^[0-9a-f]{24}-[0-9]{1,5}$", description="the id of a prediction")
    label: Name
    source: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]+$")] = Field("api", description="who says so")


class PredictionRecord(BaseModel):
    """The answer to one text."""

    id: str
    label: str
    confidence: float
    runner_up: str | None
    version: int
    role: Literal["champion", "challenger"]
    cached: bool


class PredictResponse(BaseModel):
    """One prediction a text, in order."""

    request_id: str
    predictions: list[PredictionRecord]


class JobResponse(BaseModel):
    """A job as it stands."""

    id: str
    status: Literal["queued", "running", "done", "failed"]
    attempts: int
    predictions: list[PredictionRecord] | None
    error: str | None
    created_at: float
    finished_at: float | None
    callback_status: str


class FeedbackResponse(BaseModel):
    """`label`: in the champion's schema; `proposal`: kept, and counted once enough people propose it."""

    id: str
    kind: Literal["label", "proposal"]


class RoutesResponse(BaseModel):
    """Who answers whom at this moment."""

    revision: int
    champion: int | None
    challenger: int | None
    challenger_weight: float
    shadow_share: float
    labels: list[str]


class ErrorBody(BaseModel):
    """What went wrong, and what to do about it."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """Every answer that is not 2xx."""

    request_id: str
    error: ErrorBody


class ApiError(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s


def request_schema(record: type[PredictRequest], *, max_texts: int, max_chars: int) -> dict[str, Any]:
    """JSON schema of a request for predictions, with the bounds that params set."""
    schema = record.model_json_schema()
    one = {"type": "string", "minLength": 1, "maxLength": max_chars, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}
    schema["properties"]["text"] |= one
    schema["properties"]["texts"] |= {"items": one, "maxItems": max_texts}
    return schema | {"oneOf": [{"required": ["text"]}, {"required": ["texts"]}]}


async def receive_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body; raise `ApiError` 400 when it is incomplete, 408 when too slow, 413 when too large."""
    try:
        return await read_body(request.receive, max_bytes=max_bytes, within_s=BODY_TIMEOUT_S)
    except BodyTooLargeError:
        raise ApiError(413, "body_too_large", f"a body has at most {max_bytes} bytes; send fewer or shorter texts") from None
    except BodyTooSlowError:
        raise ApiError(408, "body_too_slow", f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    except BodyCutOffError:
        raise ApiError(400, "body_cut_off", "the connection was closed before the body was complete") from None


def parse(record: type[Parsed], body: bytes) -> Parsed:
    """The record in a JSON body; raises `ApiError` 400 for what is not JSON, 422 for what is not this record."""
    try:
        return record.model_validate_json(body)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, "not_json", first["msg"]) from None
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError(422, "not_valid", f"{where}: {first['msg']}") from None


def texts_of(request: PredictRequest, *, max_texts: int, max_chars: int) -> list[str]:
    """The texts, cleaned; raises `ApiError` 422 or 413 naming the text that cannot be answered."""
    given = {"text", "texts"} & request.model_fields_set
    if len(given) != 1:
        raise ApiError(422, "not_valid", "give either `text` or `texts`")
    texts = [request.text] if "text" in given else request.texts
    if len(texts) > max_texts:
        raise ApiError(413, "too_many_texts", f"{len(texts)} texts are more than {max_texts}; send several calls, or a job")
    return [_usable(number, text, max_chars) for number, text in enumerate(texts)]


def _usable(number: int, text: str, max_chars: int) -> str:
    if len(text) > max_chars:
        raise ApiError(422, "text_too_long", f"texts.{number} has {len(text)} characters, at most {max_chars} are taken")
    if "\x00" in text:
        raise ApiError(422, "text_not_valid", f"texts.{number} holds a NUL character")
    cleaned = clean(text)
    if not cleaned:
        raise ApiError(422, "text_empty", f"texts.{number} holds nothing to read")
    return cleaned
