"""Hostile labels are data and nothing else, from the feedback API through file, git and MLflow."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from monitoring.labels.feedback_file import FILE, read_file
from monitoring.labels.texts import LOCK
from monitoring.labels.texts import TEXTS as TEXTS_FILE
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.journal import RetrainJob
from monitoring.retrain.run_local import RunLocal
from monitoring.retrain.steps import LocalSteps
from pipeline.params import Params
from pipeline.tracking import runs
from serving.gateway.schemas import FeedbackRequest
from state.database import open_state
from state.tables import feedback
from tests.monitoring.homes import NOON, Gateway
from tests.monitoring.labels.test_agreement import NASTY, logged

TEXTS = 4  # a label
REFUSED = ("x" * 100_000, "\x00", "\ud800")  # by the API


def accepted(label: str) -> str | None:
    """Return the label as the gateway's API accepts it, or None if it is refused."""
    try:
        body = json.dumps({"id": f"{0:024x}-0", "label": label})
        return FeedbackRequest.model_validate_json(body).label
    except ValidationError:
        return None


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / "data/feedback").mkdir(parents=True)
    (folder / "data/feedback/.gitkeep").touch()
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", "as it is"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_the_api_refuses_labels_that_cannot_be_stored() -> None:
    assert [label for label in NASTY if accepted(label) is None] == list(REFUSED)


def test_a_hostile_label_ends_up_in_no_name_of_a_file_branch_or_commit(params: Params, tmp_path: Path, clone: Path) -> None:
    home = tmp_path / "live"
    home.mkdir()
    labels = [label for label in NASTY if accepted(label)]
    give(home, labels)
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": TEXTS})
    settings = params.model_copy(update={"retrain": few})
    job = RetrainJob(1, 1, "collect", 1, None, None, None, "$(id)", "'; DROP TABLE alerts; --")
    run = RunLocal(clone, home, few)
    steps = LocalSteps(settings, home, run, lambda *_, **__: Verdict(True, (), {}), lambda: None, lambda *_: None)
    earlier = files(tmp_path)
    collected = steps.collect(job)
    tree = home / "retrain/1/tree"
    (file,) = (tree / "data/feedback").glob("*.jsonl")
    rows = read_file(file)
    assert collected.columns["labels"] == len(rows) > TEXTS * 8
    assert {row["label"] for row in rows} <= {" ".join(label.split()) for label in labels} | {"track_order"}
    shown = git(tree, "show", "--no-renames", "--name-only", "--format=%an%n%s%n%b")
    assert (
        shown.split() == f"Evergreen retrain Feedback for retrain 1: {len(rows)} labelled texts data/feedback/{file.name}".split()
    )
    assert git(clone, "branch", "--format=%(refname:short)").split() == ["main", "retrain/1"]
    created = {path for path in files(tmp_path) - earlier if not path.startswith(("live/retrain/1/tree/", "clone/.git/"))}
    locks = {f"live/{LOCK}"}  # a lock's file may or may not outlive the lock
    assert created - locks == {"live/retrain/1/prepared", f"live/retrain/{FILE}", f"live/{TEXTS_FILE}"}


def test_a_hostile_alert_name_becomes_a_tag_of_limited_length(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NASTY:
        if "\0" not in name and name != "\ud800":  # an environment variable cannot hold these; they never get there
            monkeypatch.setenv("EVERGREEN_ALERT", name)
            assert runs._origin(None)["evergreen.alert"] == name[:500]


def give(home: Path, labels: list[str]) -> None:
    """Let two people give each label to some texts of the prediction log."""
    count = TEXTS * len(labels)
    Gateway(home, "one").write([logged(number) for number in range(count)])
    given = {"kind": "proposal", "version": 1, "received_at": datetime.fromtimestamp(NOON + 3600, UTC)}
    with open_state(home) as engine, engine.begin() as connection:
        for number in range(count):
            for person in ("ann", "'; DELETE FROM feedback; --"):
                row = {"prediction_id": f"p{number}", "label": labels[number % len(labels)], "labeller": person}
                connection.execute(feedback.insert().values(**row, **given))


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
