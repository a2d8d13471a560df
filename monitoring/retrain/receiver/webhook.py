"""What Alertmanager posts, read strictly: types as documented, unknown fields kept, every alert by its own status."""

import json
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from monitoring.retrain.alerts import Heard

Text = Annotated[str, StringConstraints(max_length=20_000)]
Texts = Annotated[dict[Text, Text], Field(max_length=64)]


class Told(BaseModel):
    """One alert. Its group may fire while it has ended, and the other way round: only its own status counts."""

    model_config = ConfigDict(strict=True)

    status: Literal["firing", "resolved"]
    labels: Texts
    annotations: Texts
    starts_at: AwareDatetime = Field(alias="startsAt")
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]


class Webhook(BaseModel):
    """Version 4 of the webhook; what stands beside these keys is left alone."""

    model_config = ConfigDict(strict=True)

    version: Literal["4"]
    alerts: Annotated[list[Told], Field(max_length=10_000)]
    truncated: Annotated[int, Field(alias="truncatedAlerts", ge=0)] = 0


class NotAWebhookError(Exception):
    """The body is not JSON, nested too deeply, or of other types."""


def read_webhook(body: bytes) -> tuple[list[Heard], int]:
    """Its alerts, and how many more Alertmanager says it has cut off; raises `NotAWebhookError`.

    The parser goes 200 levels deep and no further.
    """
    try:
        webhook = Webhook.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise NotAWebhookError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300]) from None
    whole = json.loads(body)["alerts"]  # as it was sent, unknown fields too
    heard = [
        Heard(told.fingerprint, told.starts_at.timestamp(), told.status, json.dumps(sent))
        for told, sent in zip(webhook.alerts, whole, strict=True)
    ]
    return heard, webhook.truncated
