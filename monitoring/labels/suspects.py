"""The file of suspect labels that the last label audit found; people settle them as they settle disputes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from monitoring.labels.disputes import DisputedLabel, Settlement, changed_labels
from pipeline.atomic_write import atomic_write

FILE = "flywheel/suspects.jsonl"
AUDIT = "label audit"  # in place of a labeller


class SuspectLabel(NamedTuple):
    """A row of the corpus whose label is probably wrong."""

    text_id: str
    text: str
    label: str
    likely: str
    label_probability: float
    likely_probability: float
    found_at: float  # seconds of the epoch


def write_suspects(home: Path, suspects: Sequence[SuspectLabel]) -> None:
    """Replace the file, the most suspect first; only its owner may read the texts."""
    with atomic_write(home / FILE) as part:
        part.write_text("".join(f"{json.dumps(suspect._asdict())}\n" for suspect in suspects), encoding="ascii")
        part.chmod(0o600)


def read_suspects(home: Path) -> list[SuspectLabel]:
    """Return the suspects of the last audit; empty before the first."""
    path = home / FILE
    if not path.is_file():
        return []
    return [SuspectLabel(**json.loads(line)) for line in path.read_text(encoding="ascii").splitlines() if line]


def as_disputes(
    suspects: Sequence[SuspectLabel], corpus: Mapping[str, str], settled: Sequence[Settlement]
) -> list[DisputedLabel]:
    """Return the suspects whose row still has the label, as disputes that the audit raised; `corpus` are labels by content id."""
    changed = changed_labels(settled)
    verdicts = {(settlement.text_id, settlement.label): settlement for settlement in sorted(settled)}
    return [
        DisputedLabel(
            row.text_id,
            row.text,
            row.label,
            row.likely,
            (AUDIT,),
            row.found_at,
            row.found_at,
            verdicts.get((row.text_id, row.likely)),
        )
        for row in suspects
        if corpus.get(row.text_id) == row.label and (row.text_id not in changed or changed[row.text_id].label == row.likely)
    ]
