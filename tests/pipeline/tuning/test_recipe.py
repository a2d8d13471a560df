"""Recipes fit params.yaml and become one DVC command."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.tuning.recipe import experiment_command, read_recipe, table
from pipeline.tuning.study import with_overrides
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_fits_params(path: Path, params: Params) -> None:
    recipe = read_recipe(path)
    assert with_overrides(params, recipe, str(path)).train.epochs == recipe["train.epochs"]


def test_extra_settings_come_after_the_recipe() -> None:
    arguments = experiment_command({"train.epochs": 6, "model.lora_targets": "query,value"}, ["train.epochs=1"])
    assert " ".join(arguments) == "dvc exp run -S train.epochs=6 -S model.lora_targets='query,value' -S train.epochs=1"


@pytest.mark.parametrize("text", ["- train.epochs", "train: {epochs: 6}", "epochs", "a: ["])
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=r"mine\.yaml"):
        read_recipe(tmp_path / "mine.yaml")


def test_the_error_for_a_missing_recipe_lists_those_that_exist() -> None:
    with pytest.raises(InputError, match="banking77"):
        read_recipe(ROOT / "recipes" / "banking.yaml")


def test_the_command_is_printed_as_it_must_be_typed() -> None:
    command = [sys.executable, "-m", "pipeline.tuning.recipe", "recipes/banking77.yaml", "--dry-run", "-S", "data.source=a b.csv"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.startswith(".venv/bin/dvc exp run -S split.val_share=0.02 ")
    assert output.endswith(" -S 'data.source=a b.csv'\n")


def test_the_table_holds_each_value_and_mean_and_deviation() -> None:
    scores = [{side: {"accuracy": share, "f1_macro": share} for side in ("test", "control")} for share in (0.90, 0.92, 0.94)]
    columns = [list(column.cells) for column in table("train.seed", ["7", "8", "9"], scores).columns]
    assert columns[0] == ["7", "8", "9", "mean of 3"]
    assert columns[1] == ["90.00", "92.00", "94.00", "92.00 ± 2.00"]


def test_an_unknown_key_to_vary_is_refused_before_anything_runs() -> None:
    command = [sys.executable, "-m", "pipeline.tuning.recipe", "recipes/banking77.yaml", "--vary", "train.sed=1,2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean `train.seed`" in done.stderr
