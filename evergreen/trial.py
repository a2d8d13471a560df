"""`evergreen try`: a trial of other settings. It ends with its scores; nothing is exported, packaged or published."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from evergreen.checking import SetParam, print_findings
from evergreen.inspection import out, print_scores
from evergreen.repro import Command, run_step, table

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.row_predictions import RowPrediction

EVALUATION, ORIGIN = Path("artifacts/evaluation"), Path("artifacts/model/origin.json")
STAGE = "evaluate"  # the last stage of a trial
LEVEL = 0.05  # of the test against the last trial


class TrialScores(NamedTuple):
    """The scores of an evaluation, the predictions for its test rows, and the model's run in MLflow, None without one."""

    metrics: dict[str, dict[str, float]]
    rows: list["RowPrediction"]
    run_id: str | None


def run_trial(
    set_param: SetParam = None,
    name: Annotated[str | None, typer.Option(help="name of the experiment; default: DVC invents one")] = None,
) -> None:
    """Train with other settings and stop at the scores, beside the frozen control and the last trial."""
    from pipeline.params import load_params

    overrides = set_param or []
    print_findings(None, overrides)
    settings_before, before = load_params(), read_scores(EVALUATION, ORIGIN)
    named = ("--name", name) if name else ()
    settings = [part for override in overrides for part in ("-S", override)]
    timings = run_step(Command("dvc exp run", (sys.executable, "-m", "pipeline.tuning.experiment", *named, *settings, STAGE)))
    after = read_scores(EVALUATION, ORIGIN)
    assert after is not None, f"dvc succeeded, so it has written {EVALUATION}"  # noqa: S101
    out.print(table(timings))
    comparable = before if before and common_rows(before, after) else None
    print_trial(after, comparable)
    if before:
        out.print(comparison(before, after))
    out.print("next:")
    last_run = comparable.run_id if comparable and comparable.run_id != after.run_id else None
    for command, reason in next_steps(overrides, settings_before, last_run).items():
        out.print(f"  {command:<45} {reason}")


def read_scores(folder: Path, origin: Path) -> TrialScores | None:
    """Return the scores of the last evaluation, None before the first."""
    from pipeline.row_predictions import PREDICTIONS_FILE, read_predictions

    predictions = folder / PREDICTIONS_FILE
    try:
        metrics, trained = (json.loads(path.read_text(encoding="utf-8")) for path in (folder / "metrics.json", origin))
        rows = read_predictions(predictions, str(predictions)) if predictions.is_file() else []  # an older release wrote none
    except FileNotFoundError:
        return None
    return TrialScores(metrics, rows, trained["mlflow_run_id"])


def common_rows(before: TrialScores, after: TrialScores) -> list[tuple[bool, bool]]:
    """Return for each test row that both have whether the first and the second are right on it."""
    old = {row.id: row.predicted for row in before.rows}
    return [(old[row.id] == row.label, row.predicted == row.label) for row in after.rows if row.id in old]


def print_trial(after: TrialScores, before: TrialScores | None) -> None:
    """Print accuracy and macro-F1 of this trial, of the last one where it has the same test rows, and of the control."""
    shown = {"this trial": after.metrics["test"]}
    if before:
        shown["the last one made here"] = before.metrics["test"]
    print_scores("the trial", f"on the {len(after.rows)} test rows", shown, after.metrics)


def comparison(before: TrialScores, after: TrialScores) -> str:
    """Say in one line whether the trial is better than the last one, by McNemar's test on the test rows in common."""
    pairs = common_rows(before, after)
    if not pairs:
        return "the last one had other test rows, so the two cannot be compared row by row"
    common = "" if len(pairs) == len(after.rows) == len(before.rows) else f"of {len(pairs)} test rows in common, "
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    if not gained and not lost:
        return f"{common}every test row is right or wrong as before"
    from pipeline.metrics import mcnemar

    p = mcnemar(gained, lost)
    verdict = (
        f"{'better' if gained > lost else 'worse'} than the last one" if p < LEVEL else "no clear difference to the last one"
    )
    return f"{common}{gained} are newly right, {lost} newly wrong: {verdict} (McNemar, p = {p:.2g})"


def next_steps(overrides: list[str], before: "Params", last_run: str | None) -> dict[str, str]:
    """Return commands with their reasons; `last_run` is the run of the last model to compare with, None without one."""
    steps = {"make repro": "finish this one: export, session and package, from these settings"}
    if last_run:
        steps[f".venv/bin/evergreen compare {last_run}"] = "show the classes and texts whose answers changed"
    if undo := " ".join(filter(None, (_undo(override, before) for override in overrides))):
        steps[f".venv/bin/evergreen try {undo}"] = "return to the settings before: its scores come from the cache"
    steps["make ui"] = "look at every trial in MLflow"
    return steps


def _undo(override: str, before: "Params") -> str:
    """Return the override that gives a key its value of before; "" for a key that cannot be read here."""
    from pipeline.params.overrides import as_override

    section, _, key = override.partition("=")[0].strip().partition(".")
    values: dict[str, Any] = getattr(before, section).model_dump(mode="json") if section in type(before).model_fields else {}
    return f"-S {as_override(f'{section}.{key}', str(values[key]))}" if key in values else ""
