"""A recipe: settings known to do well on some data, as a file; run as DVC experiments, settings of your own behind them.

.venv/bin/python -m pipeline.tuning.recipe recipes/banking77.yaml -S data.source=train.csv -S data.test=test.csv
.venv/bin/python -m pipeline.tuning.recipe … --vary train.seed=7,8,9,10,11
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import yaml
from rich.console import Console
from rich.table import Table

from pipeline.errors import InputError, ToolError, run_stage
from pipeline.params import load_params
from pipeline.tuning.study import Overrides, as_argument, overridden

METRICS = Path("artifacts/evaluation/metrics.json")


def read_recipe(path: Path) -> Overrides:
    """`section.key: value` by lines; raises `InputError` where the file is something else."""
    if not path.is_file():
        near = ", ".join(str(other) for other in sorted(path.parent.glob("*.yaml"))) or "none in this folder"
        raise InputError(str(path), "there is no such recipe", f"name one that is: {near}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(str(path), f"this is not valid YAML: {error}", "mend it") from None
    if not isinstance(values, dict) or not all(isinstance(value, int | float | str) for value in values.values()):
        raise InputError(str(path), "a recipe is lines of `section.key: value`", "see recipes/banking77.yaml")
    return {str(name): value for name, value in values.items()}


def command(recipe: Overrides, own: list[str]) -> list[str]:
    """The experiment; settings of your own stand last, and win."""
    arguments = [*(as_argument(*item) for item in recipe.items()), *own]
    return ["dvc", "exp", "run", *(part for one in arguments for part in ("-S", one))]


def vary(recipe: Overrides, own: list[str], key: str, values: Sequence[str]) -> Table:
    """An experiment for each value, as far as stage `evaluate`; their scores on the test rows, mean and deviation."""
    scores = []
    for value in values:
        program, *rest = command(recipe, [*own, f"{key}={value}"])
        done = subprocess.run([str(Path(sys.prefix) / "bin" / program), *rest, "evaluate"])
        if done.returncode:
            raise ToolError(f"{key}={value}", f"dvc ended with {done.returncode}", "read what the stage said above")
        scores.append(json.loads(METRICS.read_text(encoding="utf-8")))
    return table(key, values, scores)


def table(key: str, values: Sequence[str], scores: Sequence[Mapping[str, Mapping[str, float]]]) -> Table:
    """Percent; a line a value, and below them the mean ± the deviation of a single run."""
    columns = [(side, score) for side in ("test", "control") for score in ("accuracy", "f1_macro")]
    made = Table(key, *(f"{side} {score}" for side, score in columns))
    shown = [[100 * one[side][score] for side, score in columns] for one in scores]
    for value, own in zip(values, shown, strict=True):
        made.add_row(value, *(f"{number:.2f}" for number in own))
    made.add_section()
    means = [f"{mean(own):.2f}" + (f" ± {stdev(own):.2f}" if len(own) > 1 else "") for own in zip(*shown, strict=True)]
    made.add_row(f"mean of {len(shown)}", *means)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-S", "--set-param", dest="own", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--dry-run", action="store_true", help="only print the command")
    parser.add_argument("--vary", metavar="section.key=value,value", help="an experiment for each value, then mean and deviation")
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    overridden(load_params(), recipe, str(args.recipe))
    if args.vary:
        key, _, values = args.vary.partition("=")
        for value in values.split(","):
            overridden(load_params(), {key: yaml.safe_load(value)}, "--vary")
        if not args.dry_run:
            Console().print(vary(recipe, args.own, key, values.split(",")))
            return
    program, *rest = command(recipe, args.own)
    print(shlex.join([f".venv/bin/{program}", *rest]), flush=True)
    if not args.dry_run:
        os.execv(Path(sys.prefix) / "bin" / program, [program, *rest])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    run_stage(main)
