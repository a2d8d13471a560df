"""Hostile labels on their whole way: from the feedback API through file, git and MLflow, they are data and nothing else."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from monitoring.retrain.feedback_rows import FILE, read_file
from monitoring.retrain.gate.verdict import Verdict
from monitoring.retrain.journal import Job
from monitoring.retrain.run_local import RunLocal
from monitoring.retrain.steps import WorkHere
from pipeline import tracking
from pipeline.params import Params
from serving.gateway.schemas import FeedbackRequest
from state.database import open_state
from state.tables import feedback
from tests.monitoring.homes import NOON, Gateway
from tests.monitoring.retrain.test_feedback_rows import NASTY, logged

TEXTS = 4  # a label
NO_LABELS = ("x" * 100_000, "\x00", "\ud800")  # refused at the door


def accepted(label: str) -> str | None:
    """The label as the gateway's API takes it, None where it is refused."""
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


def test_the_api_refuses_what_no_label_can_be() -> None:
    assert [label for label in NASTY if accepted(label) is None] == list(NO_LABELS)


def test_on_the_way_into_the_branch_a_hostile_label_names_no_file_and_no_commit(
    params: Params, tmp_path: Path, clone: Path
) -> None:
    home = tmp_path / "live"
    home.mkdir()
    labels = [label for label in NASTY if accepted(label)]
    give(home, labels)
    few = params.retrain.model_copy(update={"proposal_people": 2, "proposal_texts": TEXTS})
    settings = params.model_copy(update={"retrain": few})
    job = Job(1, 1, "collect", 1, None, None, None, "$(id)", "'; DROP TABLE alerts; --")
    work = WorkHere(settings, home, RunLocal(clone, home, few), lambda *_, **__: Verdict(True, (), {}), lambda: None)
    before = files(tmp_path)
    done = work.collect(job)
    tree = home / "retrain/1/tree"
    rows = read_file(tree / "data/feedback" / FILE)
    assert done.learnt["labels"] == len(rows) > TEXTS * 8
    assert {row["label"] for row in rows} <= {" ".join(label.split()) for label in labels} | {"track_order"}
    shown = git(tree, "show", "--no-renames", "--name-only", "--format=%an%n%s%n%b")
    assert shown.split() == f"Evergreen retrain Feedback for retrain 1: {len(rows)} labelled texts data/feedback/{FILE}".split()
    assert git(clone, "branch", "--format=%(refname:short)").split() == ["main", "retrain/1"]
    made = {path for path in files(tmp_path) - before if not path.startswith(("live/retrain/1/tree/", "clone/.git/"))}
    assert made == {"live/retrain/1/prepared", f"live/retrain/{FILE}"}


def test_of_an_alert_with_a_hostile_name_a_run_is_told_a_tag_of_some_length(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NASTY:
        if "\0" not in name and name != "\ud800":  # no environment can hold these; they never get there
            monkeypatch.setenv("EVERGREEN_ALERT", name)
            assert tracking._origin()["evergreen.alert"] == name[:500]


def give(home: Path, labels: list[str]) -> None:
    """Two people give each label to some texts, which stand in the prediction log."""
    count = TEXTS * len(labels)
    Gateway(home, "one").write([logged(number) for number in range(count)])
    with open_state(home) as engine, engine.begin() as connection:
        for number in range(count):
            for person in ("ann", "'; DELETE FROM feedback; --"):
                row = {"prediction_id": f"p{number}", "label": labels[number % len(labels)], "kind": "proposal", "source": person}
                connection.execute(feedback.insert().values(**row, received_at=datetime.fromtimestamp(NOON + 3600, UTC)))


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
