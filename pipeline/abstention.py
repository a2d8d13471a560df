"""When a version abstains: the threshold on its confidence, and what a caller gets instead of a label."""

import json
from pathlib import Path
from typing import Any, NamedTuple

ABSTAIN_FILE = "abstain.json"  # of stage evaluate, and of a package whose model abstains
UNSURE = "unsure"  # the reason that a caller reads


class Abstention(NamedTuple):
    """Travels with a version: the gateway reads it from the model's config.pbtxt, `evergreen predict` from the package."""

    threshold: float  # of the calibrated confidence: below it the model abstains; 0: it never does
    fallback: str  # given instead of a label; empty: null
    expected_share: float | None = None  # of texts like the test rows, it abstains from at most this share; None: unknown

    def is_unsure(self, confidence: float) -> bool:
        """Return whether the model abstains at this confidence."""
        return confidence < self.threshold

    def as_parameter(self) -> str:
        """Return JSON for a parameter of config.pbtxt."""
        return json.dumps(self._asdict())


NEVER = Abstention(0.0, "")


def parse_abstention(values: dict[str, Any] | None) -> Abstention:
    """Return the rule of a package's file or parameter; a version without one never abstains."""
    threshold = float(values["threshold"]) if values else 0.0
    return Abstention(threshold, str(values["fallback"]), values.get("expected_share")) if values and threshold else NEVER


def read_abstention(package: Path) -> Abstention:
    """Return the rule of a package."""
    path = package / ABSTAIN_FILE
    return parse_abstention(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else NEVER
