"""The explanation of an alert: words that moved and three example texts, read from the monitor's /report.json.

They cannot travel as labels of metrics. Keys of the report that are not declared here are ignored.
"""

import urllib.request
from http.client import HTTPException
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

MAX_BYTES = 2**20
WAIT_S = 2.0
Text = Annotated[str, StringConstraints(max_length=20_000)]


class Signal(BaseModel):
    """One signal of the evaluated window."""

    model_config = ConfigDict(frozen=True)

    signal: Text
    value: float | None
    window_threshold: float | None = None  # of the value; absent in messages stored by older versions
    threshold: float | None  # of log_e
    log_e: float | None
    effect_size: float | None
    moved_words: Annotated[list[Text], Field(max_length=100)]
    examples: Annotated[list[Text], Field(max_length=100)]


class Accuracy(BaseModel):
    """Accuracy estimated without labels, its bounds, and accuracy on the reference; 0 to 1."""

    model_config = ConfigDict(frozen=True)

    estimate: float | None
    lower: float | None
    upper: float | None
    reference: float | None


class LabelledAccuracy(BaseModel):
    """Accuracy by labels, 0 to 1; without bounds while there are few labels."""

    model_config = ConfigDict(frozen=True)

    labels: int
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None


class Explanation(BaseModel):
    """The monitor's report on one version."""

    model_config = ConfigDict(frozen=True)

    version: int
    at: Text  # ISO 8601
    signals: Annotated[list[Signal], Field(max_length=100)]
    accuracy: Accuracy | None
    estimated_share: float | None
    labelled: LabelledAccuracy | None = None  # here and below: absent in messages stored by older versions
    tolerated_loss: float | None = None

    def find(self, name: str | None) -> Signal | None:
        """Return the entry of one signal."""
        return next((signal for signal in self.signals if signal.signal == name), None)


def fetch_explanation(url: str, version: str | None) -> tuple[Explanation | None, str]:
    """Return the report if it is about this version, else None and a readable reason."""
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as response:  # noqa: S310 (the address is from params)
            body = response.read(MAX_BYTES + 1)
    except (OSError, HTTPException) as error:
        return None, f"the monitor does not answer ({getattr(error, 'reason', error)})"
    if len(body) > MAX_BYTES:
        return None, "the monitor's report is too long"
    try:
        report = Explanation.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return None, f"the monitor's report has an unexpected form: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    if version is not None and str(report.version) != version:
        return None, f"the monitor's report is about version {report.version} now"
    return report, ""
