"""The reference record on disk."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.reference_profile import Reference, load_corrupted, load_reference, measured_labels, save_reference


@pytest.fixture
def reference() -> Reference:
    rng = np.random.default_rng(0)
    return Reference(
        ids=np.array(["a1", "b2", "c3"]),
        labels=np.array(["alpha", "zażółć 🦓"]),
        probabilities=rng.dirichlet([1, 1], size=3).astype(np.float32),
        sketch=rng.normal(size=(3, 4)).astype(np.float16),
        pieces=np.array([2, 9, 128], dtype=np.int32),
        pieces_per_word=np.array([0, 1.5, 2], dtype=np.float32),
        correct=np.array([True, False, True]),
        calibrate=np.array([False, True, True]),
    )


def test_a_reference_comes_back_with_values_and_types(reference: Reference, tmp_path: Path) -> None:
    save_reference(tmp_path / "deep" / "reference.npz", reference)
    loaded = load_reference(tmp_path / "deep" / "reference.npz")
    for name, expected in reference._asdict().items():
        column = getattr(loaded, name)
        assert column.dtype == expected.dtype
        assert np.array_equal(column, expected)


def test_corrupted_rows_come_back_or_none_where_there_are_none(reference: Reference, tmp_path: Path) -> None:
    corrupted = reference._replace(correct=~reference.correct, pieces=reference.pieces + 1)
    save_reference(tmp_path / "both.npz", reference, corrupted)
    save_reference(tmp_path / "one.npz", reference)
    loaded = load_corrupted(tmp_path / "both.npz")
    assert loaded is not None
    assert all(np.array_equal(column, expected) for column, expected in zip(loaded, corrupted, strict=True))
    assert np.array_equal(load_reference(tmp_path / "both.npz").correct, reference.correct)
    assert load_corrupted(tmp_path / "one.npz") is None


def test_nothing_but_the_file_itself_is_written(reference: Reference, tmp_path: Path) -> None:
    save_reference(tmp_path / "reference.npz", reference)
    assert [path.name for path in tmp_path.iterdir()] == ["reference.npz"]


def test_a_file_with_pickled_parts_is_not_read(reference: Reference, tmp_path: Path) -> None:
    pickled = reference._asdict() | {"ids": np.array([{"any": "object"}], dtype=object)}
    np.savez(tmp_path / "reference.npz", **pickled)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_reference(tmp_path / "reference.npz")


def test_a_file_that_lacks_a_field_is_not_read(reference: Reference, tmp_path: Path) -> None:
    fields = reference._asdict()
    del fields["correct"]
    np.savez(tmp_path / "reference.npz", **fields)
    with pytest.raises(KeyError, match="correct"):
        load_reference(tmp_path / "reference.npz")


def test_the_labels_of_the_measurement_come_back(reference: Reference, tmp_path: Path) -> None:
    save_reference(tmp_path / "reference.npz", reference, truth=np.array(["alpha", "beta", "alpha"]))
    assert measured_labels(tmp_path / "reference.npz") == {"a1": "alpha", "b2": "beta", "c3": "alpha"}


def test_a_file_of_an_older_version_knows_the_labels_that_its_model_got_right(reference: Reference, tmp_path: Path) -> None:
    older = reference._replace(probabilities=np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], dtype=np.float32))
    save_reference(tmp_path / "reference.npz", older)
    assert measured_labels(tmp_path / "reference.npz") == {"a1": "alpha", "b2": None, "c3": "zażółć 🦓"}


def test_a_text_with_two_labels_has_none_that_is_known(reference: Reference, tmp_path: Path) -> None:
    save_reference(tmp_path / "reference.npz", reference._replace(ids=np.array(["a", "a", "c"])), truth=np.array(["x", "y", "x"]))
    assert measured_labels(tmp_path / "reference.npz") == {"a": None, "c": "x"}
