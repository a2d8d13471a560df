"""What the OpenAPI document says of routes that parse their bodies and serialise their answers themselves."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel

from serving.gateway.schemas import ErrorResponse, FeedbackWithdrawal

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,198}[!-~])?$"},
}
WITHDRAWAL_PARAMETERS = [
    {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.pop("description", "")}
    for name, schema in FeedbackWithdrawal.model_json_schema()["properties"].items()
]
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "a token of `evergreen token add NAME --scope …`; without a tokens file the gateway asks for none on loopback",
}
DESCRIBED = {
    401: {"description": "`no_token`: tokens are configured, and the request has no valid one"},
    403: {"description": "`scope_missing`: the token lacks the scope of this route"},
}


def describe_tokens(app: FastAPI) -> None:
    """Add the bearer tokens to the OpenAPI document. The middleware checks them, not the framework."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {})["securitySchemes"] = {"bearer": BEARER}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def describe_route(
    answer: type[BaseModel],
    *errors: int,
    success: int = 200,
    body: dict[str, Any] | None = None,
    examples: dict[str, dict[str, Any]] | None = None,
    links: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the arguments that add such a route to the app."""
    extra: dict[str, Any] = {"security": [{"bearer": []}, {}]}  # or none: without tokens the gateway serves its local user
    if body:
        content = {"schema": body, "examples": {name: {"value": value} for name, value in (examples or {}).items()}}
        extra["requestBody"] = {"required": True, "content": {"application/json": content}}
    succeeded: dict[str, Any] = {"model": answer}
    if links:
        succeeded["links"] = {link["operationId"]: link for link in links}
    failures = {status: {"model": ErrorResponse, **DESCRIBED.get(status, {})} for status in errors}
    return {
        "status_code": success,
        "response_class": Response,
        "responses": {success: succeeded, **failures},
        "openapi_extra": extra,
    }
