"""`evergreen try`: what it runs, and what it says of the scores."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evergreen import repro, trial
from evergreen.cli import app
from evergreen.trial import TrialScores, comparison, next_steps, scores_table
from pipeline.output.terminal import Terminal
from pipeline.params import Params

LABELS = ["a"] * 10 + ["b"] * 10


def scores(predicted: list[str], actual: list[str] = LABELS) -> TrialScores:
    right = sum(a == p for a, p in zip(actual, predicted, strict=True)) / len(actual)
    metrics = {"test": {"accuracy": right, "f1_macro": right}, "control": {"accuracy": 0.5, "f1_macro": 0.25}}
    return TrialScores(metrics, list(zip(actual, predicted, strict=True)))


def write(folder: Path, scored: TrialScores) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(scored.metrics))
    with (folder / "confusion.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("actual", "predicted"), *scored.rows])


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        (LABELS, "10 test rows gained, 0 lost: better than the last one (McNemar, p = 0.002)"),
        (["a"] * 10 + ["b"] * 3 + ["a"] * 7, "3 test rows gained, 0 lost: no clear difference to the last one"),
        (["a"] * 20, "every test row is right or wrong as before"),
        (["b"] * 10 + ["a"] * 10, "0 test rows gained, 10 lost: worse than the last one"),
    ],
)
def test_the_trial_is_compared_with_the_last_one_row_by_row(predicted: list[str], said: str) -> None:
    assert comparison(scores(["a"] * 20), scores(predicted)).startswith(said)


def test_other_test_rows_are_not_compared() -> None:
    assert "other test rows" in comparison(scores(["a"] * 20, ["a"] * 20), scores(LABELS))


def test_the_first_trial_stands_beside_the_control_alone() -> None:
    terminal = Terminal(width=100)
    with terminal.capture() as captured:
        terminal.print(scores_table(scores(LABELS), None))
    shown = captured.get()
    assert "on the 20 test rows" in shown
    assert "1.0000" in shown
    assert "0.2500" in shown
    assert "last one" not in shown


def test_the_way_back_is_a_command(params: Params) -> None:
    rate = params.train.encoder_lr
    (back,) = [
        step for step in next_steps(["train.encoder_lr=5e-4", "data.source='my data.csv'", "no.key=1"], params) if "try" in step
    ]
    assert back == f""".venv/bin/evergreen try -S train.encoder_lr={rate} -S data.source={params.data.source}"""
    assert not [step for step in next_steps([], params) if "try" in step]


def test_a_trial_is_an_experiment_of_dvc_up_to_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, commands, checked = tmp_path / "evaluation", list[tuple[str, ...]](), list[tuple[None, list[str]]]()

    def run(step: repro.Command) -> list[repro.Timing]:
        commands.append(step.command[1:])
        write(folder, scores(LABELS))
        return [repro.Timing("train", 7.0)]

    write(folder, scores(["a"] * 20))
    monkeypatch.setattr(trial, "EVALUATION", folder)
    monkeypatch.setattr(trial, "run_step", run)
    monkeypatch.setattr(trial, "print_findings", lambda file, overrides: checked.append((file, overrides)))
    result = CliRunner().invoke(app, ["try", "-S", "train.epochs=2", "-S", "train.seed=8", "--name", "quick"])
    assert result.exit_code == 0, result.output
    assert checked == [(None, ["train.epochs=2", "train.seed=8"])]
    assert commands == [("exp", "run", "--name", "quick", "-S", "train.epochs=2", "-S", "train.seed=8", "evaluate")]
