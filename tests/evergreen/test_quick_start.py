"""Commands import what they need and no more: an answer or an error that needs no model does not wait for a model's libraries.

Packages are compared, never seconds: they are the same on every machine.
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pipeline.errors import EXIT_REFUSED
from pipeline.home import keep_private
from serving.release.release_table import add_release
from state.database import open_state
from tests.conftest import ROOT

TRAINING = {"torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy"}
SLOW = TRAINING | {"mlflow", "pandas", "matplotlib", "onnxruntime", "openvino", "onnx", "alembic", "fastapi", "dvc"}
ROWS = {"numpy", "pyarrow", "tokenizers"}
SERVER = {"tritonclient", "grpc", "numpy"}
DATABASE = {"sqlalchemy", "cryptography"}
RUN = """
import json, sys
from evergreen.cli import main
sys.argv[1:] = {arguments}
code = 0
try:
    main()
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, sorted({{name.partition(".")[0] for name in sys.modules}})]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of state with one published version, whose folder holds nothing."""
    folder = tmp_path_factory.mktemp("home")
    keep_private(folder)
    with open_state(folder) as engine, engine.begin() as connection:
        add_release(connection, 1, "digest")
    return folder


def loaded(home: Path, *arguments: str, folder: Path = ROOT) -> tuple[int, set[str]]:
    """Return the exit code of a command, and the packages that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(arguments=list(arguments))],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "EVERGREEN_HOME": str(home), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    code, packages = json.loads(done.stderr.splitlines()[-1])
    return code, set(packages)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "allowed"),
    [
        (("--help",), 0, set()),
        (("publish", "--help"), 0, set()),
        (("status",), 0, DATABASE),
        (("why", "champion"), 0, DATABASE),
        (("why", "nothing-of-this-name"), 2, DATABASE | {"numpy", "pyarrow"}),  # it searches the prediction log too
        (("publish", "99"), 2, DATABASE),
        (("rollback",), 2, DATABASE),
        (("ask", "where is my parcel?"), 3, DATABASE | SERVER),  # no Triton answers
        (("check",), 0, ROWS),
        (("check", "no-such-file.csv"), 2, ROWS),
        (("try", "-S", "no.key=1"), 2, ROWS | {"dvc"}),
        (("predict", str(ROOT / "README.md"), "--model", "nothing"), 2, ROWS),
        (("predict", str(ROOT / "data/no_test.csv"), "--model", "nothing"), 2, DATABASE | ROWS),
        (("export", "--to", "no-such-folder", "--model", "nothing"), 2, DATABASE),
        (("compare", "champion"), 4, DATABASE | ROWS | {"scipy"}),  # the champion's folder holds nothing
        (("compare", "no-such-revision"), 2, DATABASE | ROWS | {"scipy", "dvc"}),  # the home has no runs to search either
        (("gate", "--split", "no-such-folder"), 2, DATABASE | ROWS | {"scipy"}),
        (("backtest",), 2, DATABASE | ROWS | {"alembic"}),
        (("token", "list"), 0, set()),
        (("labels",), 0, DATABASE | ROWS | {"alembic"}),
        (("disputes",), 0, DATABASE | ROWS | {"alembic"}),
        (("retrain", "--help"), 0, set()),
        (("retrain", "--cancel"), 0, DATABASE | ROWS | {"alembic"}),  # no retrain is running
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_imports_no_package_that_it_does_not_need(
    home: Path, arguments: tuple[str, ...], exit_code: int, allowed: set[str]
) -> None:
    code, packages = loaded(home, *arguments)
    assert code == exit_code
    assert packages & (SLOW | ROWS | SERVER | DATABASE) <= allowed


def test_a_package_that_is_not_there_is_refused_without_mlflow(home: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    code, packages = loaded(home, "publish", folder=tmp_path)
    assert code == EXIT_REFUSED
    assert not packages & SLOW


def test_the_packages_that_count_as_slow_are_installed_here() -> None:
    """A name that is written wrongly would never be found among the imported packages."""
    assert set(packages_distributions()) >= SLOW | ROWS | SERVER | DATABASE
