"""`evergreen try`: what it runs, and what it says of the scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evergreen import inspection, repro, trial
from evergreen.cli import app
from evergreen.trial import TrialScores, common_rows, comparison, next_steps, print_trial
from pipeline.params import Params
from pipeline.row_predictions import PREDICTIONS_FILE, RowPrediction, write_predictions

LABELS = ["a"] * 10 + ["b"] * 10


def scores(predicted: list[str], actual: list[str] = LABELS, *, first: int = 0, run_id: str | None = None) -> TrialScores:
    """Return scores on the test rows whose numbers begin with `first`."""
    right = sum(a == p for a, p in zip(actual, predicted, strict=True)) / len(actual)
    metrics = {"test": {"accuracy": right, "f1_macro": right}, "control": {"accuracy": 0.5, "f1_macro": 0.25}}
    rows = [RowPrediction(str(first + i), *pair, 0.9) for i, pair in enumerate(zip(actual, predicted, strict=True))]
    return TrialScores(metrics, rows, run_id)


def write(folder: Path, scored: TrialScores) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(scored.metrics))
    (folder / "origin.json").write_text(json.dumps({"mlflow_run_id": scored.run_id}))
    certain = np.array([[row.predicted == label for label in ("a", "b")] for row in scored.rows], dtype=np.float64)
    write_predictions(folder / PREDICTIONS_FILE, [row.id for row in scored.rows], LABELS, certain, ["a", "b"])


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        (LABELS, "10 are newly right, 0 newly wrong: better than the last one (McNemar, p = 0.002)"),
        (["a"] * 10 + ["b"] * 3 + ["a"] * 7, "3 are newly right, 0 newly wrong: no clear difference to the last one"),
        (["a"] * 20, "every test row is right or wrong as before"),
        (["b"] * 10 + ["a"] * 10, "0 are newly right, 10 newly wrong: worse than the last one"),
    ],
)
def test_the_trial_is_compared_with_the_last_one_row_by_row(predicted: list[str], said: str) -> None:
    assert comparison(scores(["a"] * 20), scores(predicted)).startswith(said)


def test_other_test_rows_are_not_compared() -> None:
    other = scores(["a"] * 20, first=20)
    assert "other test rows" in comparison(other, scores(LABELS))
    assert common_rows(other, scores(LABELS)) == []
    assert len(common_rows(scores(LABELS), scores(LABELS))) == 20


def test_other_data_are_compared_on_the_rows_in_common_with_the_labels_of_today() -> None:
    relabelled = scores(["a"] * 20, ["a"] * 20, first=10)  # its rows 10 to 19 are the trial's, which says "b" of them
    said = comparison(relabelled, scores(LABELS))
    assert said.startswith("of 10 test rows in common, 10 are newly right, 0 newly wrong: better")


def test_the_first_trial_stands_beside_the_control_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_trial(scores(LABELS), None)
    shown = capsys.readouterr().out
    assert "on the 20 test rows" in shown
    assert "1.0000" in shown
    assert "0.2500" in shown
    assert "last one" not in shown


def test_a_trial_and_status_advise_who_is_below_the_control(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = scores(["b"] * 10 + ["a"] * 5 + ["b"] * 5)
    write(tmp_path, poor)
    monkeypatch.setattr(inspection, "METRICS", tmp_path / "metrics.json")
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    print_trial(poor, None)
    assert capsys.readouterr().out.count("fine-tuning is not better than the frozen encoder on these data: -25.0 points") == 1
    inspection.status()
    assert capsys.readouterr().out.count("fine-tuning is not better than the frozen encoder on these data: -25.0 points") == 1
    print_trial(scores(LABELS), None)
    assert "fine-tuning is" not in capsys.readouterr().out


def test_the_way_back_is_a_command(params: Params) -> None:
    rate = params.train.encoder_lr
    (back,) = [
        step
        for step in next_steps(["train.encoder_lr=5e-4", "data.source='my data.csv'", "no.key=1"], params, None)
        if "try" in step
    ]
    assert back == f""".venv/bin/evergreen try -S train.encoder_lr={rate} -S data.source={params.data.source}"""
    assert not [step for step in next_steps([], params, None) if "try" in step]


def test_a_trial_is_an_experiment_of_dvc_up_to_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, commands, checked = tmp_path / "evaluation", list[tuple[str, ...]](), list[tuple[None, list[str]]]()

    def run(step: repro.Command) -> list[repro.Timing]:
        commands.append(step.command[1:])
        write(folder, scores(LABELS, run_id="1" * 32))
        return [repro.Timing("train", 7.0)]

    write(folder, scores(["a"] * 20, run_id="0" * 32))
    monkeypatch.setattr(trial, "EVALUATION", folder)
    monkeypatch.setattr(trial, "ORIGIN", folder / "origin.json")
    monkeypatch.setattr(trial, "run_step", run)
    monkeypatch.setattr(trial, "print_findings", lambda file, overrides: checked.append((file, overrides)))
    result = CliRunner().invoke(app, ["try", "-S", "train.epochs=2", "-S", "train.seed=8", "--name", "quick"])
    assert result.exit_code == 0, result.output
    assert checked == [(None, ["train.epochs=2", "train.seed=8"])]
    settings = ("-S", "train.epochs=2", "-S", "train.seed=8")
    assert commands == [("-m", "pipeline.tuning.experiment", "--name", "quick", *settings, "evaluate")]
    assert f"evergreen compare {'0' * 32} " in result.output
