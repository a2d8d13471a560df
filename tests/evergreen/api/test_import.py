"""`import evergreen` costs nothing, and its names are imported when they are used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import evergreen
from pipeline import errors
from tests.conftest import ROOT

LAZY = ("numpy", "pandas", "pydantic", "typer", "rich", "torch", "mlflow", "sklearn", "onnxruntime", "pipeline", "serving")


def test_import_loads_no_library_and_no_other_package() -> None:
    program = "import sys; before = set(sys.modules); import evergreen; print('\\n'.join(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if name.partition(".")[0] in LAZY} == set()
    assert [name for name in done.stdout.split() if name.startswith("evergreen.")] == []


def test_a_load_and_a_refused_training_import_neither_torch_nor_mlflow() -> None:
    program = """
import sys, evergreen
for call in (lambda: evergreen.load("no such model"), lambda: evergreen.train(["a"], ["b"])):
    try:
        call()
    except evergreen.InputError:
        pass
    else:
        raise AssertionError
print("\\n".join(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "mlflow", "transformers", "sklearn"} & set(done.stdout.split())


def test_every_name_of_the_api_can_be_used_and_is_offered() -> None:
    assert set(evergreen.__all__) <= set(dir(evergreen))
    assert all(getattr(evergreen, name) for name in evergreen.__all__)
    assert evergreen.InputError is errors.InputError
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = evergreen.laod


def test_a_folder_with_the_name_of_the_package_hides_nothing(tmp_path: Path) -> None:
    """A notebook that stands beside a clone has that clone's folder `evergreen` as the nearest."""
    (tmp_path / "evergreen").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import evergreen; print(evergreen.load.__module__)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("evergreen.api.loading\n", "")
