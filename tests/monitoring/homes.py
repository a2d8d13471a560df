"""A state folder with a published version of the simulated world, and segments of a prediction log as gateways write them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monitoring.drift.window import PredictionRows
from pipeline.reference_profile import Reference, save_reference
from serving.prediction import Prediction
from serving.prediction_log.segments import encode_segment
from serving.release.manifest import model_name, repository
from serving.release.release_table import add_release, promote
from state.database import open_state

NOON = 1_790_000_000.0 - 1_790_000_000 % 86_400 + 43_200


def publish(home: Path, version: int, reference: Reference | None) -> None:
    """Enter a version and make it champion; with None its folder has no reference."""
    folder = repository(home) / model_name(version)
    folder.mkdir(parents=True)
    if reference is not None:
        save_reference(folder / "reference.npz", reference)
        labels = sorted(reference.labels.tolist(), reverse=True)  # another order than the reference's
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    with open_state(home) as engine, engine.begin() as connection:
        add_release(connection, version, str(version))
        promote(connection, version)


def log_rows(
    rows: PredictionRows,
    labels: Sequence[str],
    *,
    version: int = 1,
    role: str = "champion",
    at: float = NOON,
    file: Sequence[str] | None = None,
) -> list[Prediction]:
    """Return the rows as the gateway logs them, one per ms; probabilities in the order of `labels.txt` (default: `publish`'s)."""
    order = np.array([list(labels).index(label) for label in (file or sorted(labels, reverse=True))])
    logged = []
    for i in range(len(rows.id)):
        p = rows.probabilities[i]
        best = int(p.argmax())
        logged.append(
            Prediction(at + i / 1000, "r", str(rows.id[i]), str(rows.unit[i]) or None, str(rows.text[i]), None,
                int(rows.pieces[i]), float(rows.pieces_per_word[i]), version, role, str(labels[best]), float(p[best]), None,
                rows.sketch[i].tobytes(), p[order].astype(np.float16).tobytes(), 3.0, False)
        )  # type: ignore[arg-type]  # fmt: skip
    return logged


class Gateway:
    """One session that writes segments; a segment can be held back and written late."""

    def __init__(self, home: Path, session: str) -> None:
        self.root, self.session = home / "predictions", session
        self._sequence = self._rows = 0

    def segment(self, rows: Sequence[Prediction], *, text: str = "keep") -> tuple[Path, bytes]:
        """Return the next segment without writing it."""
        segment = encode_segment(rows, text, self.session, self._sequence, self._rows)
        self._sequence, self._rows = segment.sequence, self._rows + segment.rows
        return self.root / segment.name, segment.data

    def write(self, rows: Sequence[Prediction], *, text: str = "keep") -> Path:
        """Write the next segment to the log."""
        path, data = self.segment(rows, text=text)
        return write_segment(path, data)


def write_segment(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
