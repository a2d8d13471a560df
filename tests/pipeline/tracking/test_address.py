"""`evergreen env`: the line with which a plain shell finds MLflow's store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evergreen.cli import app
from pipeline.tracking.address import default_uri, export_line
from tests.conftest import ROOT

HARMLESS = {"PATH": os.environ["PATH"]}


def test_env_names_the_store_to_a_shell_whatever_the_home_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / 'my $HOME\'s "home" (1)'
    home.mkdir(mode=0o700)
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    printed = CliRunner().invoke(app, ["env"]).output
    script = 'eval "$1"; printf %s "$MLFLOW_TRACKING_URI"'
    done = subprocess.run(["bash", "-euc", script, "-", printed], env=HARMLESS, capture_output=True, text=True, check=True)
    assert done.stdout == default_uri(home)


def test_env_keeps_the_server_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert export_line(tmp_path) == "export MLFLOW_TRACKING_URI=https://mlflow.example"


def test_the_address_is_known_without_importing_mlflow() -> None:
    program = "import sys, pipeline.tracking.address; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
