"""A training that is killed and restarted ends bit for bit as an uninterrupted one; damaged checkpoints are skipped."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from structlog.testing import capture_logs

from pipeline.learning.classification import classification_task
from pipeline.learning.loop import FitResult, fit
from pipeline.learning.resume import NEWEST_KEPT, Checkpoints, newest_checkpoint, open_checkpoints, restore_checkpoint
from pipeline.learning.training_state import TrainingState
from pipeline.params import Params
from tests.pipeline.learning.toy import fresh, toy_rows, toy_settings

INPUTS = {"training rows": "abc", "train.encoder_lr": "0.001"}
STEPS = 8


class Killed(BaseException):
    """Simulates kill -9: nothing after it runs."""


def train(params: Params, folder: Path | None, killed_at: int | None = None) -> FitResult:
    """Train the toy task, with a checkpoint after every step; it can be killed inside a step, before that step's checkpoint."""
    settings = toy_settings(params)
    model = fresh(params)

    def log_step(step: int, _values: dict[str, float]) -> None:
        if step == killed_at:
            raise Killed

    return fit(
        classification_task(model, *toy_rows(params), settings, "fp32"),
        settings,
        log_step=log_step,
        log_epoch=lambda *_: None,
        checkpoints=Checkpoints(folder, INPUTS, every_s=0) if folder else None,
    )


def digest(fitted: FitResult) -> str:
    return sha256(save(fitted.state)).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(params: Params) -> FitResult:
    return train(params, None)


def test_killed_at_every_step_and_resumed_each_time_it_ends_with_the_same_bytes(
    params: Params, uninterrupted: FitResult, tmp_path: Path
) -> None:
    """Dropout, order of rows, schedule, guard, early stopping and the curves all go on where they were."""
    for step in range(1, STEPS + 1):
        with capture_logs() as logs, pytest.raises(Killed):
            train(params, tmp_path, killed_at=step)
        assert [line["from_step"] for line in logs if line["event"] == "training_resumed"] == ([step - 2] if step > 2 else [])
    last = train(params, tmp_path)
    assert digest(last) == digest(uninterrupted)
    assert (last.steps, last.epochs, last.progress, last.guard) == (
        uninterrupted.steps, uninterrupted.epochs, uninterrupted.progress, uninterrupted.guard,
    )  # fmt: skip


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unmark(path: Path) -> None:
    path.with_suffix(".json").unlink()


def half_a_marker(path: Path) -> None:
    path.with_suffix(".json").write_text('{"sha256": "', encoding="utf-8")


@pytest.fixture(scope="module")
def two_checkpoints(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    with pytest.raises(Killed):
        train(params, folder, killed_at=7)
    return folder


@pytest.fixture
def folder(two_checkpoints: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoints after steps 5 and 6."""
    for path in two_checkpoints.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_only_the_last_checkpoints_are_kept(folder: Path) -> None:
    assert [path.name for path in sorted(folder.glob("*.pt"))] == ["step-00000005.pt", "step-00000006.pt"]
    assert len(list(folder.iterdir())) == 2 * NEWEST_KEPT


@pytest.mark.parametrize("corrupt", [truncate, flip_a_bit, unmark, half_a_marker], ids=lambda corrupt: corrupt.__name__)
def test_a_damaged_or_unmarked_checkpoint_is_logged_and_the_one_before_it_taken(
    corrupt: Callable[[Path], None], folder: Path
) -> None:
    corrupt(folder / "step-00000006.pt")
    with capture_logs() as logs:
        newest = newest_checkpoint(folder)
    assert newest is not None
    assert newest.step == 5
    assert [line["path"] for line in logs if line["event"] == "checkpoint_skipped"] == [str(folder / "step-00000006.pt")]


def test_from_the_older_checkpoint_the_end_is_the_same(params: Params, uninterrupted: FitResult, folder: Path) -> None:
    flip_a_bit(folder / "step-00000006.pt")
    with capture_logs() as logs:
        assert digest(train(params, folder)) == digest(uninterrupted)
    assert [line["from_step"] for line in logs if line["event"] == "training_resumed"] == [5]


def test_without_a_valid_checkpoint_training_starts_from_the_beginning(params: Params, folder: Path) -> None:
    for path in folder.glob("*.pt"):
        truncate(path)
    model = fresh(params)
    assert restore_checkpoint(Checkpoints(folder, INPUTS, 0), model, torch.optim.SGD(model.parameters())) is None


def test_a_state_is_restored_as_it_was_saved(params: Params, uninterrupted: FitResult) -> None:
    state = TrainingState(
        step=3, rng_state={"state": 2**100}, guard=uninterrupted.guard, progress=uninterrupted.progress, steps=uninterrupted.steps
    )
    assert TrainingState.from_json(state.to_json(), {}) == state


def interrupted(home: Path, inputs: dict[str, str]) -> None:
    with pytest.raises(Killed), open_checkpoints(inputs, home, every_s=0) as checkpoints:
        assert checkpoints is not None
        checkpoints.run = "run-1"
        checkpoints.write({"nothing": 1}, step=4)
        raise Killed


def test_the_same_inputs_find_their_checkpoint_and_its_run(tmp_path: Path) -> None:
    interrupted(tmp_path, INPUTS)
    with open_checkpoints(dict(INPUTS), tmp_path, every_s=0) as again:
        assert again is not None
        assert again.latest is not None
        assert (again.latest.step, again.run) == (4, "run-1")


def test_changed_inputs_start_a_new_training_and_name_the_change(tmp_path: Path) -> None:
    interrupted(tmp_path, INPUTS)
    with capture_logs() as logs, open_checkpoints({**INPUTS, "training rows": "xyz"}, tmp_path, every_s=0) as other:
        assert other is not None
        assert other.latest is None
    assert [(line["event"], line["instead_of_step"], line["changed_inputs"]) for line in logs] == [
        ("training_restarts", 4, "training rows")
    ]


def test_a_training_that_succeeded_leaves_nothing_behind(tmp_path: Path) -> None:
    with open_checkpoints(INPUTS, tmp_path, every_s=0) as checkpoints:
        assert checkpoints is not None
        checkpoints.write({"nothing": 1}, step=1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_two_trainings_on_the_same_inputs_do_not_share_checkpoints(tmp_path: Path) -> None:
    with open_checkpoints(INPUTS, tmp_path, every_s=0) as checkpoints:
        assert checkpoints is not None
        with capture_logs() as logs, open_checkpoints(INPUTS, tmp_path, every_s=0) as second:
            assert second is None
        assert logs[0]["event"] == "checkpoints_disabled"
        assert checkpoints.folder.is_dir()


def test_a_full_disk_is_logged_and_training_continues(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "a file", INPUTS, every_s=0)
    (tmp_path / "a file").write_text("where a folder should be", encoding="utf-8")
    with capture_logs() as logs:
        checkpoints.write({"nothing": 1}, step=1)
    assert logs[0]["event"] == "checkpoint_not_written"


def test_checkpoints_are_due_after_their_time(tmp_path: Path) -> None:
    assert not Checkpoints(tmp_path, INPUTS, every_s=3600).is_due()
    assert Checkpoints(tmp_path, INPUTS, every_s=0).is_due()
