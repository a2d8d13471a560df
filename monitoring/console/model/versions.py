"""The published versions: their list, and two of them side by side by the gate's paired test."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.console.model.version_card import VersionCard
from monitoring.retrain.history.comparison import ComparedModel, Comparison, compare
from pipeline.card.facts import CARD, read_report
from pipeline.data.records import texts_by_id
from pipeline.params import Params
from pipeline.row_predictions import referenced_predictions
from serving.release.manifest import version_folder
from state.tables import releases

TEST_ROWS = Path("artifacts/split/test.parquet")  # of the working tree: the texts that are known here


class VersionRow(NamedTuple):
    """A published version in the list; scores are None where they did not travel with it."""

    version: int
    role: str
    published_at: datetime
    content_digest: str
    accuracy: float | None
    control: float | None
    rows: int | None  # to train


def list_versions(connection: sa.Connection, home: Path) -> list[VersionRow]:
    """Return every version, newest first."""
    found = connection.execute(sa.select(releases).order_by(releases.c.version.desc()))
    return [_row(row, home) for row in found]


def _row(row: sa.Row[tuple[int, str, str, datetime]], home: Path) -> VersionRow:
    card = read_report(version_folder(home, row.version) / CARD)
    scores = card.get("scores", {})
    return VersionRow(
        row.version,
        row.role,
        row.published_at,
        row.content_digest,
        scores.get("test", {}).get("accuracy"),
        scores.get("control", {}).get("accuracy"),
        card.get("report", {}).get("rows", {}).get("train"),
    )


def compare_versions(a: VersionCard, b: VersionCard, params: Params) -> Comparison:
    """Compare the versions on the test rows that both were measured on; raise `InputError` when there is none."""
    return compare(_as_model(a), _as_model(b), params.gate, params.evaluate.confidence)


def _as_model(card: VersionCard) -> ComparedModel:
    rows = referenced_predictions(card.folder / "reference.npz")
    return ComparedModel(f"version {card.version}", rows, card.facts.params, texts_by_id(TEST_ROWS))
