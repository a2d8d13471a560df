"""A label that contradicts a row of the shipped corpus which measures the model."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitoring.labels.texts import TEXTS, read_texts, write_texts
from monitoring.labels.trusted_rows import TrustedRow, read_trusted
from pipeline.params import load_params
from serving.key_file import read_key
from serving.prediction_ids import PredictionIds
from state.database import open_state
from state.tables import feedback
from tests.conftest import ROOT


def dispute_a_row(
    home: Path, monkeypatch: pytest.MonkeyPatch, label: str = "wrong", by: str = "ben", number: int = 0
) -> TrustedRow:
    """Store the label under this name; return the row."""
    monkeypatch.chdir(ROOT)
    trusted = read_trusted(ROOT, None, [], load_params())
    row = trusted.corpus[sorted(key for key in trusted.corpus if key in trusted.protected)[0]]
    (id,) = PredictionIds(read_key(home, "prediction")).issue(time.time(), 1, 1)
    write_texts(home / TEXTS, {**read_texts(home / TEXTS), id: row.text})
    given = {"prediction_id": id, "kind": "label", "version": 1, "received_at": datetime.now(UTC)}
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(feedback.insert().values(label=label, labeller=by, **given))
    return row
