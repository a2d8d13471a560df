"""DVC works as its users expect: only changed stages run, and experiments, remotes and worktrees work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project, copy_made

STAGES = ["ingest", "split", "spread", "control", "train", "evaluate", "reference", "export", "package"]


@pytest.fixture
def copy(made: Project, tmp_path: Path) -> Project:
    """Return a copy of the made project that one test may change."""
    return copy_made(made, tmp_path / "copy")


@pytest.fixture(scope="module")
def scratch(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy that is left as it was: other workers read the made project meanwhile."""
    return copy_made(made, tmp_path_factory.mktemp("scratch") / "copy")


CHANGES: dict[str, dict[str, Any]] = {
    "package": {"package": {"queue_delay_us": 500}},
    "export": {"export": {"parity_batches": "1 2"}},
    "evaluate": {"evaluate": {"seed": 12}},
    "train": {"train": {"epochs": 3}},
    "": {"serve": {"http_port": 9000}, "publish": {"name": "other"}},
}
FEEDBACK = '{"text": "my scooter battery is hot", "label": "damaged_item"}\n'
STATUSES = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

params, feedback = Path("params.yaml"), Path("data/feedback/turn-1.jsonl")
before, statuses = params.read_text(), {}
for stage, text in json.loads(sys.stdin.read()).items():
    params.write_text(text)
    with Repo() as repo:
        statuses[stage] = list(repo.status())
params.write_text(before)
feedback.write_text(sys.argv[1])
with Repo() as repo:
    statuses["feedback"] = list(repo.status())
feedback.unlink()
print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def would_run(scratch: Project) -> dict[str, list[str]]:
    """Return the stages whose inputs have changed, for each change of params.yaml and for new feedback; one process asks DVC."""
    before = (scratch / "params.yaml").read_text()
    texts = {}
    for stage, change in CHANGES.items():
        scratch.set(**change)
        texts[stage] = (scratch / "params.yaml").read_text()
        (scratch / "params.yaml").write_text(before)
    statuses = json.loads(scratch.must("python", "-c", STATUSES, FEEDBACK, given=json.dumps(texts)).splitlines()[-1])
    return {change: [stage for stage in STAGES if stage in changed] for change, changed in statuses.items()}


def test_a_second_repro_runs_nothing(scratch: Project) -> None:
    output = scratch.must("dvc", "repro")
    assert "Running stage" not in output
    assert "up to date" in output


@pytest.mark.parametrize("stage", CHANGES)
def test_a_changed_param_affects_only_its_stages(would_run: dict[str, list[str]], stage: str) -> None:
    assert would_run[stage] == [stage] * bool(stage)


def test_accepted_feedback_changes_the_data_set(would_run: dict[str, list[str]]) -> None:
    assert would_run["feedback"] == ["ingest"]


def test_metrics_show_lists_the_model_and_its_control(scratch: Project) -> None:
    shown = json.loads(scratch.must("dvc", "metrics", "show", "--json").splitlines()[-1])
    (path,) = shown[""]["data"]
    assert path == "artifacts/evaluation/summary.json"
    assert list(shown[""]["data"][path]["data"]) == ["accuracy", "f1_macro", "control_accuracy", "val_accuracy"]


def test_plots_show_draws_curves_and_confusion(copy: Project) -> None:
    copy.must("dvc", "plots", "show")
    page = (copy / "dvc_plots/index.html").read_text()
    for title in ("learning curve (loss)", "learning curve (validation)", "confusion matrix", "class sizes"):
        assert title in page


def test_an_experiment_runs_what_changed_and_is_listed(copy: Project) -> None:
    output = copy.must("dvc", "exp", "run", "--name", "sooner", "-S", "reference.seed=14")
    assert "Running stage 'package'" in output
    assert "Running stage 'train'" not in output
    table = copy.must("dvc", "exp", "show", "--only-changed", "--csv")
    assert "sooner" in table
    compared = copy.must("evergreen", "compare", "sooner", "workspace")  # which holds the experiment's results now
    assert "only B is right on 0 rows, only A on 0: p = 1" in compared
    program = (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///live/mlflow.db')\n"
        "runs = mlflow.search_runs(search_all_experiments=True, output_format='list')\n"
        "print([run.data.tags.get('dvc.exp_name') for run in runs])"
    )
    assert "sooner" in copy.must("python", "-c", program)


def test_a_trial_stops_at_its_scores_beside_the_control_and_the_last_one(copy: Project) -> None:
    package = (copy / "artifacts/package/manifest.json").read_bytes()
    output = copy.must("evergreen", "try", "--name", "quick", "-S", "evaluate.seed=12", COLUMNS="120")
    assert [stage for stage in STAGES if f"Running stage '{stage}'" in output] == ["evaluate"]
    for part in ("this trial", "the last one made here", "frozen encoder", "right or wrong as before", "make repro"):
        assert part in output
    assert ".venv/bin/evergreen try -S evaluate.seed=11" in output
    assert "quick" in copy.must("dvc", "exp", "list", "--name-only")
    assert (copy / "artifacts/package/manifest.json").read_bytes() == package


def test_push_and_pull_restore_artefacts(copy: Project) -> None:
    copy.must("dvc", "push")
    shutil.rmtree(copy / ".dvc/cache")
    shutil.rmtree(copy / "artifacts")
    copy.must("dvc", "pull")
    assert (copy / "artifacts/package/manifest.json").is_file()
    assert "up to date" in copy.must("dvc", "status")


def test_a_second_worktree_uses_the_same_home_and_cache(copy: Project, tmp_path: Path) -> None:
    copy.must("git", "add", "dvc.lock")
    copy.must("git", "commit", "--quiet", "--message", "lock")
    copy.must("git", "worktree", "add", "--quiet", str(tmp_path / "second"))
    second = Project(tmp_path / "second")
    (second / ".venv").symlink_to(copy.folder / ".venv")
    second.must("python", "-m", "pipeline.worktree")
    output = second.must("dvc", "repro")
    assert "Running stage" not in output
    assert (second / "artifacts/package/manifest.json").is_file()
    assert not (second / "live").exists()
    assert not (second / ".dvc/cache").exists()
