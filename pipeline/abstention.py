"""When a version abstains: the threshold on its confidence, and what a caller gets instead of a label."""

from typing import Any, NamedTuple

UNSURE = "unsure"  # the reason that a caller reads


class Abstention(NamedTuple):
    """Travels with a version: the gateway reads it from the model's config.pbtxt."""

    threshold: float  # of the calibrated confidence: below it the model abstains; 0: it never does
    fallback: str  # given instead of a label; empty: null

    def is_unsure(self, confidence: float) -> bool:
        """Return whether the model abstains at this confidence."""
        return confidence < self.threshold


NEVER = Abstention(0.0, "")


def parse_abstention(values: dict[str, Any] | None) -> Abstention:
    """Return the rule of a package's file or parameter; a version without one never abstains."""
    return Abstention(float(values["threshold"]), str(values["fallback"])) if values else NEVER
