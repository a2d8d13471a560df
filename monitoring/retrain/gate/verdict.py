"""What a gate says of a candidate: passed or not, why, and the numbers it rests on. How it comes to that is not known here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Verdict:
    """A judgement that can be kept and told: each reason is a sentence, each number has a name as MLflow takes it."""

    passed: bool
    reasons: tuple[str, ...]  # of a refusal: every ground; of a pass: what it rests on
    numbers: Mapping[str, float]  # shares 0 to 1, counts, p-values; letters, digits, _ - . / and spaces in names; finite

    def as_json(self) -> str:
        """The verdict as the journal keeps it."""
        tree = {"passed": self.passed, "reasons": list(self.reasons), "numbers": dict(self.numbers)}
        return json.dumps(tree, ensure_ascii=False, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """What `as_json` wrote."""
        tree = json.loads(text)
        return cls(bool(tree["passed"]), tuple(tree["reasons"]), tree["numbers"])


class Gate(Protocol):
    """Judges a candidate; raises an `EvergreenError` when it cannot judge, which is no pass."""

    def __call__(self, package: Path, champion: Path | None, *, split: Path, feedback: Path) -> Verdict:
        """Judge the packaged candidate against the champion.

        `package` is the candidate's folder as stage `package` wrote it, `champion` the champion's folder in the live repository
        (None: there is none, floors alone decide); `split` is artifacts/split of the worktree that made the candidate: the test
        set of today; `feedback` is its data/feedback, whose texts are the new slice.
        """
