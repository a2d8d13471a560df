"""The retrain drill in small: a controller is killed in two steps; and every promise of the drill can be broken."""

from collections import Counter
from pathlib import Path

import yaml

from monitoring.retrain.journal import STEPS
from tests.conftest import ROOT, Project, copy_made
from tests.faults.retraining import retrain
from tests.faults.retraining.environment import STAGES
from tests.faults.retraining.history import CHECKS
from tests.faults.retraining.kill_points import OVER, POINTS


def test_a_retrain_whose_controllers_die_is_done_once(made: Project, tmp_path: Path) -> None:
    clone = copy_made(made, tmp_path / "clone")
    points = ["after feedback is written", "publish: released", "after a look of the shadow", "before a move of the canary"]
    amount = retrain.Amount(points, [], is_mlflow_stopped=False, is_database_locked=False, is_disk_full=False)
    outcome, timeline = retrain.run(clone, amount, print)
    assert [promise.what for promise in outcome.promises if not promise.is_kept] == [], (outcome.figures, outcome.notes)
    assert [fault.name for fault in timeline.faults] == amount.points
    assert timeline.ends == {1: "done, version 2"}
    assert {(row["step"], row["outcome"]) for row in timeline.rows()} == {
        *((step, "done") for step in STEPS), ("collect", "lost"), ("publish", "lost"), ("shadow", "lost"), ("canary", "lost")
    }  # fmt: skip
    timeline.draw(tmp_path / "retrain.png")
    assert (tmp_path / "retrain.png").stat().st_size > 10_000


def test_every_promise_of_the_drill_can_be_broken() -> None:
    broken = Counter(list(CHECKS))
    bad = retrain.Figures(asked=3, ended=Counter(done=1, running=1), versions=2, felt=2, missed=1, bad_looks=1, broken=broken)
    assert [promise.what for promise in retrain.judge(bad) if promise.is_kept] == []
    good = retrain.Figures(asked=1, ended=Counter(refused=1), versions=0, felt=1, missed=0, bad_looks=0, broken=Counter())
    assert all(promise.is_kept for promise in retrain.judge(good))


def test_crash_points_after_the_end_have_separate_retrains() -> None:
    amount = retrain.Amount(list(POINTS), [], is_mlflow_stopped=False, is_database_locked=False, is_disk_full=False)
    assert [case.name for case in retrain.cases(amount)] == ["controller killed", *(f"killed {point}" for point in OVER)]


def test_there_is_a_crash_point_before_and_after_every_write_of_every_step_and_a_kill_in_every_stage(made: Project) -> None:
    for step in STEPS:
        assert {f"before {step} is begun", f"after {step} is begun"} < set(POINTS)
    for step in STEPS[:-1]:
        assert {f"before {step} is ended", f"after {step} is ended"} < set(POINTS)
    stages = (made / "dvc.lock").read_text(encoding="utf-8")
    assert all(f"\n  {stage}:\n" in stages for stage in STAGES)
    assert stages.count("\n    cmd: ") == len(STAGES)


def test_the_drill_kills_the_stages_in_an_order_in_which_dvc_runs_them() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    maker = {
        out: name for name in STAGES for entry in stages[name]["outs"] for out in (entry if isinstance(entry, dict) else [entry])
    }
    done: set[str] = set()
    for name in STAGES:
        assert {maker[path] for path in stages[name]["deps"] if path in maker} - done == set(), name
        done.add(name)
