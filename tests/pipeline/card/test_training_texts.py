"""Training texts travel with a version, and those nearest to a new text are found by their sketches."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.card.training_texts import TrainingTexts, draw_evenly, nearest, read_training_texts, write_training_texts
from pipeline.data.records import Example
from pipeline.errors import InputError

ROWS = [Example(id=str(n), text=f"text {n} ✓", label="a" if n < 3 else "b") for n in range(4)]
SKETCH = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float16)


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
    write_training_texts(path, ROWS, SKETCH, keeps_texts=True)
    known = read_training_texts(path)
    assert (known.ids, known.labels) == (["0", "1", "2", "3"], ["a", "a", "a", "b"])
    assert known.texts == [row.text for row in ROWS]
    assert (known.sketch == SKETCH).all()


def test_where_texts_are_not_kept_no_text_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    write_training_texts(path, ROWS, SKETCH, keeps_texts=False)
    assert read_training_texts(path).texts == [None] * 4
    assert b"text 1" not in path.read_bytes()


def test_the_nearest_come_first_by_cosine() -> None:
    known = TrainingTexts(["0", "1", "2", "3"], ["a", "a", "a", "b"], ["w", "x", "y", "z"], SKETCH)
    rows = nearest(known, np.array([3, 0], np.float16), 2)
    assert [(row.text, round(row.similarity, 2)) for row in rows] == [("w", 1.0), ("x", 0.8)]
    assert [row.similarity for row in nearest(known, np.zeros(2, np.float16), 9)] == [0.0] * 4
    assert nearest(TrainingTexts([], [], [], np.zeros((0, 2), np.float16)), SKETCH[0], 5) == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match="training texts cannot be read"):
        read_training_texts(path)
