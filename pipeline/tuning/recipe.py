"""Runs a recipe, a file of settings that do well on some data, as a DVC experiment; your own settings follow and win.

.venv/bin/python -m pipeline.tuning.recipe recipes/banking77.yaml -S data.source=train.csv -S data.test=test.csv
.venv/bin/python -m pipeline.tuning.recipe … --vary train.seed=7,8,9,10,11
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import yaml
from rich.table import Table

from pipeline.errors import InputError, ToolError, run_stage
from pipeline.lifetime import run_child
from pipeline.output.plain_text import print_line
from pipeline.output.terminal import Terminal
from pipeline.params import load_params
from pipeline.tracking.descriptions import RECIPE
from pipeline.tuning.study import Overrides, dvc_argument, with_overrides

METRICS = Path("artifacts/evaluation/metrics.json")


def read_recipe(path: Path) -> Overrides:
    """Read lines of `section.key: value`; raise `InputError` when the file holds something else."""
    if not path.is_file():
        recipes = ", ".join(str(other) for other in sorted(path.parent.glob("*.yaml"))) or "none in this folder"
        raise InputError(str(path), "there is no such recipe", f"use one of these: {recipes}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(str(path), f"this is not valid YAML: {error}", "correct it") from None
    if not isinstance(values, dict) or not all(isinstance(value, int | float | str) for value in values.values()):
        raise InputError(str(path), "a recipe is lines of `section.key: value`", "see recipes/banking77.yaml")
    return {str(name): value for name, value in values.items()}


def experiment_command(recipe: Overrides, extra: list[str]) -> list[str]:
    """Return the command of the experiment; `extra` settings come last and win."""
    arguments = [*(dvc_argument(*item) for item in recipe.items()), *extra]
    return ["dvc", "exp", "run", *(part for argument in arguments for part in ("-S", argument))]


def vary(recipe: Overrides, extra: list[str], key: str, values: Sequence[str]) -> Table:
    """Run an experiment for each value, up to stage `evaluate`; return scores on the test rows, mean and deviation."""
    scores = []
    for value in values:
        program, *rest = experiment_command(recipe, [*extra, f"{key}={value}"])
        done = run_child([str(Path(sys.prefix) / "bin" / program), *rest, "evaluate"])
        if done.returncode:
            raise ToolError(f"{key}={value}", f"dvc ended with {done.returncode}", "read the stage's output above")
        scores.append(json.loads(METRICS.read_text(encoding="utf-8")))
    return table(key, values, scores)


def table(key: str, values: Sequence[str], scores: Sequence[Mapping[str, Mapping[str, float]]]) -> Table:
    """Return percentages, one line for each value, and below them the mean ± the deviation of a single run."""
    columns = [(side, score) for side in ("test", "control") for score in ("accuracy", "f1_macro")]
    result = Table(key, *(f"{side} {score}" for side, score in columns))
    percentages = [[100 * run[side][score] for side, score in columns] for run in scores]
    for value, row in zip(values, percentages, strict=True):
        result.add_row(value, *(f"{number:.2f}" for number in row))
    result.add_section()
    by_column = list(zip(*percentages, strict=True))
    means = [f"{mean(column):.2f}" + (f" ± {stdev(column):.2f}" if len(column) > 1 else "") for column in by_column]
    result.add_row(f"mean of {len(percentages)}", *means)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-S", "--set-param", dest="extra", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--dry-run", action="store_true", help="only print the command")
    parser.add_argument("--vary", metavar="section.key=value,value", help="run each value, then print mean and deviation")
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    with_overrides(load_params(), recipe, str(args.recipe))
    os.environ[RECIPE] = str(args.recipe)  # the stages name their MLflow run by it
    if args.vary:
        key, _, values = args.vary.partition("=")
        for value in values.split(","):
            with_overrides(load_params(), {key: yaml.safe_load(value)}, "--vary")
        if not args.dry_run:
            Terminal(soft_wrap=False).print(vary(recipe, args.extra, key, values.split(",")))
            return
    program, *rest = experiment_command(recipe, args.extra)
    print_line(shlex.join([f".venv/bin/{program}", *rest]))
    if not args.dry_run:
        os.execv(Path(sys.prefix) / "bin" / program, [program, *rest])  # noqa: S606  # without a shell


if __name__ == "__main__":
    run_stage(main)
