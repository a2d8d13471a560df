"""The frozen control travels as numbers: numpy alone reads it, and nothing else passes for it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.card.frozen_control import CONTROL, FrozenControl, load_control, save_control
from pipeline.errors import InputError

CONTROL_OF_TWO = FrozenControl(
    labels=np.array(["refund", "<b>track"]),
    coefficients=np.array([[1, 0, 0], [0, 2, 0]], np.float32),
    intercepts=np.array([0.5, 0], np.float32),
    temperature=0.5,
    base="some-base",
    revision="main",
    weights_sha256="ab" * 32,
    max_pieces=128,
    test_ids=np.array(["r1", "r2", "r3"]),
    test_labels=np.array(["refund", "refund", "<b>track"]),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_control(tmp_path / CONTROL, CONTROL_OF_TWO)
    loaded = load_control(tmp_path)
    assert loaded is not None
    assert {name: type(value) for name, value in loaded._asdict().items()} == {
        name: type(value) for name, value in CONTROL_OF_TWO._asdict().items()
    }
    for name, value in CONTROL_OF_TWO._asdict().items():
        assert np.array_equal(getattr(loaded, name), value), name


def test_probabilities_are_those_of_calibrated_logits() -> None:
    unit = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    expected = [1 / (1 + np.exp(-(first - second) / 0.5)) for first, second in ((1.5, 0), (0.5, 2), (0.5, 0))]
    assert CONTROL_OF_TWO.probabilities(unit)[:, 0] == pytest.approx(expected, abs=1e-6)
    assert CONTROL_OF_TWO.probabilities(unit).sum(axis=1) == pytest.approx(1)
    assert CONTROL_OF_TWO.probabilities(unit[:0]).shape == (0, 2)


def test_a_version_of_an_earlier_release_has_none(tmp_path: Path) -> None:
    assert load_control(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array(["refund"])},
        {"intercepts": np.zeros(3, np.float32)},
        {"coefficients": np.zeros(2, np.float32)},
        {"temperature": 0.0},
        {"test_ids": np.array(["r1"])},
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    save_control(tmp_path / CONTROL, CONTROL_OF_TWO._replace(**change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"control\.npz: the frozen control cannot be read"):
        load_control(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 half a file", b"not a file of arrays"])
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CONTROL).write_bytes(data)
    with pytest.raises(InputError, match=CONTROL):
        load_control(tmp_path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    arrays = {name: np.asarray(value) for name, value in CONTROL_OF_TWO._asdict().items()}
    with (tmp_path / CONTROL).open("wb") as file:
        np.savez(file, **arrays | {"labels": np.array([print, "track"], dtype=object)})
    with pytest.raises(InputError, match="allow_pickle=False"):
        load_control(tmp_path)
