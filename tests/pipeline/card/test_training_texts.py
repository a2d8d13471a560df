"""Training texts travel with a version, and those nearest to a new text are found by the model's outputs."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.card.training_texts import (
    TrainingTexts,
    draw_evenly,
    log_odds,
    nearest,
    read_training_texts,
    write_training_texts,
)
from pipeline.data.records import Example
from pipeline.errors import InputError
from pipeline.runtime.outputs import ModelOutputs

ROWS = [Example(id=str(n), text=f"text {n} ✓", label="a" if n < 3 else "b") for n in range(4)]
SKETCH = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float16)
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.0, 1.0]], np.float32)
OUTPUTS = ModelOutputs(["a", "a", "a", "b"], PROBABILITIES, SKETCH, np.ones(4, np.int32), np.ones(4, np.float32))


def first(row: int) -> ModelOutputs:
    """Return the outputs for one text, the one of this row."""
    rows = slice(row, row + 1)
    return OUTPUTS._replace(labels=OUTPUTS.labels[rows], probabilities=PROBABILITIES[rows], sketch=SKETCH[rows])


def test_a_small_class_is_there_as_a_whole_before_a_large_one_gets_more() -> None:
    labels = ["large"] * 100 + ["small"] * 3
    drawn = draw_evenly(labels, 10, seed=1)
    assert drawn == sorted(set(drawn))
    assert [labels[row] for row in drawn] == ["large"] * 7 + ["small"] * 3
    assert drawn == draw_evenly(labels, 10, seed=1)
    assert draw_evenly(labels, 1000, seed=1) == list(range(103))
    assert draw_evenly(labels, 0, seed=1) == draw_evenly([], 5, seed=1) == []


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    write_training_texts(path, ROWS, OUTPUTS, keeps_texts=True)
    known = read_training_texts(path)
    assert (known.ids, known.labels) == (["0", "1", "2", "3"], ["a", "a", "a", "b"])
    assert known.texts == [row.text for row in ROWS]
    assert (known.sketch == SKETCH).all()


def test_where_texts_are_not_kept_no_text_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    write_training_texts(path, ROWS, OUTPUTS, keeps_texts=False)
    assert read_training_texts(path).texts == [None] * 4
    assert b"text 1" not in path.read_bytes()


def test_the_nearest_come_first_by_sketch_and_class(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    write_training_texts(path, ROWS, OUTPUTS, keeps_texts=True)
    known = read_training_texts(path)
    rows = nearest(known, first(0), 3)
    assert [row.text for row in rows] == ["text 0 ✓", "text 1 ✓", "text 2 ✓"]
    assert [round(row.similarity, 2) for row in rows] == [1.0, 0.89, 0.43]  # (cosine of sketches + 0.75) / 1.75
    assert round(nearest(known, first(0), 4)[3].similarity, 2) == -1.0
    assert len(nearest(known, first(3), 9)) == 4


def test_a_probability_of_0_and_no_rows_are_no_fault() -> None:
    none = TrainingTexts([], [], [], np.zeros((0, 2), np.float16), np.zeros((0, 2), np.float16))
    assert nearest(none, OUTPUTS, 5) == []
    assert np.isfinite(log_odds(PROBABILITIES)).all()
    flat = OUTPUTS._replace(probabilities=np.full((4, 2), 0.5, np.float32), sketch=np.zeros((4, 2), np.float16))
    known = TrainingTexts(["0"], ["a"], ["w"], SKETCH[:1], log_odds(PROBABILITIES[:1]).astype(np.float16))
    assert [row.similarity for row in nearest(known, flat, 1)] == [0.0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match="training texts cannot be read"):
        read_training_texts(path)
