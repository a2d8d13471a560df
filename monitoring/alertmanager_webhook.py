"""The body that Alertmanager posts to a webhook, version 4, parsed strictly: documented types only, unknown keys ignored."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Text = Annotated[str, StringConstraints(max_length=20_000)]
Texts = Annotated[dict[Text, Text], Field(max_length=64)]


class WebhookAlert(BaseModel):
    """One alert. Only its own status counts: a firing group may hold alerts that have ended."""

    model_config = ConfigDict(strict=True)

    status: Literal["firing", "resolved"]
    labels: Texts
    annotations: Texts
    starts_at: AwareDatetime = Field(alias="startsAt")
    ends_at: AwareDatetime = Field(alias="endsAt")  # year 1 while it fires
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]


class Webhook(BaseModel):
    """The body: one group of alerts."""

    model_config = ConfigDict(strict=True)

    version: Literal["4"]
    alerts: Annotated[list[WebhookAlert], Field(max_length=10_000)]
    truncated: Annotated[int, Field(alias="truncatedAlerts", ge=0)] = 0  # alerts that Alertmanager cut off


class WebhookError(Exception):
    """A body that is not JSON, is nested more than 200 levels deep, or has other types."""


def parse_webhook(body: bytes) -> Webhook:
    """Parse a body; raises `WebhookError` that names the first wrong field."""
    try:
        return Webhook.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise WebhookError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300]) from None
