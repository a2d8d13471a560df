"""The gate's verdict on a candidate, and the interface of a gate."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Verdict:
    """The gate's decision. Each reason is a sentence; each number has a name that MLflow accepts."""

    passed: bool
    reasons: tuple[str, ...]  # of a refusal: every failed check; of a pass: what it rests on
    numbers: Mapping[str, float]  # shares 0 to 1, counts, p-values; letters, digits, _ - . / and spaces in names; finite

    def as_json(self) -> str:
        """Serialise the verdict for the journal."""
        tree = {"passed": self.passed, "reasons": list(self.reasons), "numbers": dict(self.numbers)}
        return json.dumps(tree, ensure_ascii=False, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Parse the output of `as_json`."""
        tree = json.loads(text)
        return cls(bool(tree["passed"]), tuple(tree["reasons"]), tree["numbers"])


class RunGate(Protocol):
    """A function that evaluates a candidate; it raises an `EvergreenError` when it cannot, which never counts as a pass."""

    def __call__(self, package: Path, champion: Path | None, *, split: Path, feedback: Path) -> Verdict:
        """Compare the packaged candidate with the champion.

        `package` is the candidate's folder as written by stage `package`; `champion` is the champion's folder in the live
        repository, or None, and then the floors alone decide. `split` is artifacts/split of the worktree that made the
        candidate, with the current test set; `feedback` is its data/feedback, whose texts are the new slice.
        """
