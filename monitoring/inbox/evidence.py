"""What a message shows besides numbers: the words that moved and three texts, from the monitor's /report.json.

They cannot travel as labels of metrics. The record says what is expected of the report; what it does not know it leaves alone.
"""

import urllib.error
import urllib.request
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

MAX_BYTES = 2**20
WAIT_S = 2.0
Text = Annotated[str, StringConstraints(max_length=20_000)]


class Signal(BaseModel):
    """One signal of the window that was judged."""

    model_config = ConfigDict(frozen=True)

    signal: Text
    value: float | None
    window_threshold: float | None = None  # of the value; messages that were kept before this was told have none
    threshold: float | None  # of log_e
    log_e: float | None
    effect_size: float | None
    moved_words: Annotated[list[Text], Field(max_length=100)]
    examples: Annotated[list[Text], Field(max_length=100)]


class Accuracy(BaseModel):
    """Estimated without labels, with bounds, and that on the reference; 0 to 1."""

    model_config = ConfigDict(frozen=True)

    estimate: float | None
    lower: float | None
    upper: float | None
    reference: float | None


class Evidence(BaseModel):
    """The monitor's report on one version."""

    model_config = ConfigDict(frozen=True)

    version: int
    at: Text  # ISO 8601
    signals: Annotated[list[Signal], Field(max_length=100)]
    accuracy: Accuracy | None
    estimated_share: float | None

    def of(self, signal: str | None) -> Signal | None:
        """The entry of one signal."""
        return next((one for one in self.signals if one.signal == signal), None)


def fetch(url: str, version: str | None) -> tuple[Evidence | None, str]:
    """The report when it speaks of this version, else None and the reason, for people."""
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:  # noqa: S310 (on params' address)
            body = answer.read(MAX_BYTES + 1)
    except (OSError, urllib.error.URLError) as error:
        return None, f"the monitor could not be asked ({getattr(error, 'reason', error)})"
    if len(body) > MAX_BYTES:
        return None, "the monitor's report is too long"
    try:
        report = Evidence.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return None, f"the monitor's report is not what was expected: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    if version is not None and str(report.version) != version:
        return None, f"the monitor's report is of version {report.version} by now"
    return report, ""
