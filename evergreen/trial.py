"""`evergreen try`: a trial of other settings. It ends with its scores; nothing is exported, packaged or published."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table

from evergreen.checking import SetParam, print_findings
from evergreen.inspection import out
from evergreen.repro import BIN, Command, run_step, table

if TYPE_CHECKING:
    from pipeline.params import Params

EVALUATION = Path("artifacts/evaluation")
STAGE = "evaluate"  # the last stage of a trial
LEVEL = 0.05  # of the test against the last trial


class TrialScores(NamedTuple):
    """The scores of an evaluation, and the label of each test row with its prediction."""

    metrics: dict[str, dict[str, float]]
    rows: list[tuple[str, str]]  # (actual, predicted)


def run_trial(
    set_param: SetParam = None,
    name: Annotated[str | None, typer.Option(help="name of the experiment; default: DVC invents one")] = None,
) -> None:
    """Train with other settings and stop at the scores, beside the frozen control and the last trial."""
    from pipeline.params import load_params

    overrides = set_param or []
    print_findings(None, overrides)
    settings_before, before = load_params(), read_scores(EVALUATION)
    named = ("--name", name) if name else ()
    settings = [part for override in overrides for part in ("-S", override)]
    timings = run_step(Command("dvc exp run", (str(BIN / "dvc"), "exp", "run", *named, *settings, STAGE)))
    after = read_scores(EVALUATION)
    assert after is not None, f"dvc succeeded, so it has written {EVALUATION}"  # noqa: S101
    out.print(table(timings))
    out.print(scores_table(after, before))
    if before:
        out.print(comparison(before, after))
    out.print("next:")
    for command, reason in next_steps(overrides, settings_before).items():
        out.print(f"  {command:<45} {reason}")


def read_scores(folder: Path) -> TrialScores | None:
    """Return the scores of the last evaluation, None before the first."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "confusion.csv").open(newline="", encoding="utf-8") as file:
            rows = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return None
    return TrialScores(metrics, rows)


def scores_table(after: TrialScores, before: TrialScores | None) -> Table:
    """Return accuracy and macro-F1 of this trial, of the last one and of the control."""
    scores = {"this trial": after.metrics["test"]}
    if before:
        scores["the last one made here"] = before.metrics["test"]
    scores["frozen encoder + logistic regression"] = after.metrics["control"]
    shown = Table(f"on the {len(after.rows)} test rows", "accuracy", "macro-F1", title="the trial", title_justify="left")
    for name, values in scores.items():
        shown.add_row(name, f"{values['accuracy']:.4f}", f"{values['f1_macro']:.4f}")
    return shown


def comparison(before: TrialScores, after: TrialScores) -> str:
    """Say in one line whether the trial is better than the last one, by McNemar's test on the same test rows."""
    if [actual for actual, _ in before.rows] != [actual for actual, _ in after.rows]:
        return "the last one had other test rows, so the two cannot be compared row by row"
    from pipeline.metrics import mcnemar

    pairs = [(a == old, a == new) for (a, old), (_, new) in zip(before.rows, after.rows, strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    if not gained and not lost:
        return "every test row is right or wrong as before"
    p = mcnemar(gained, lost)
    verdict = (
        f"{'better' if gained > lost else 'worse'} than the last one" if p < LEVEL else "no clear difference to the last one"
    )
    return f"{gained} test rows gained, {lost} lost: {verdict} (McNemar, p = {p:.2g})"


def next_steps(overrides: list[str], before: "Params") -> dict[str, str]:
    """Return commands with their reasons."""
    steps = {"make repro": "finish this one: export, session and package, from these settings"}
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
