"""What is asked of the predictor, who answers it, and why nobody does."""

from collections.abc import Sequence
from typing import NamedTuple

from serving.arm_counts import Arm
from serving.prediction import ModelOutput, Role


class NothingServedError(Exception):
    """No version has been published yet."""


class NotServedError(Exception):
    """The requested version takes no traffic."""


class Query(NamedTuple):
    """Texts of one caller, already cleaned, and what decides their version."""

    request_id: str  # or the id of a job
    key: str  # chooses the version for texts without a unit
    texts: Sequence[str]
    unit: str | None  # sticky key
    version: int | None  # None: routing chooses


class Destination(NamedTuple):
    """Who answers a query. Without an arm it is not counted for a release: its caller has named the version, or none runs."""

    version: int
    role: Role
    arm: Arm | None


class GivenAnswer(NamedTuple):
    """A version's output for a text."""

    output: ModelOutput
    is_cached: bool
    version: int
