"""A recipe: settings known to do well on some data, as a file; run as one DVC experiment, settings of your own behind them.

.venv/bin/python -m pipeline.tuning.recipe recipes/banking77.yaml -S data.source=train.csv -S data.test=test.csv
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

import yaml

from pipeline.errors import InputError, run_stage
from pipeline.params import load_params
from pipeline.tuning.study import Overrides, as_argument, overridden


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-S", "--set-param", dest="own", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--dry-run", action="store_true", help="only print the command")
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    overridden(load_params(), recipe, str(args.recipe))
    program, *rest = command(recipe, args.own)
    print(shlex.join([f".venv/bin/{program}", *rest]), flush=True)
    if not args.dry_run:
        os.execv(Path(sys.prefix) / "bin" / program, [program, *rest])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    run_stage(main)
