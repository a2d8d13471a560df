"""The notebook names no machine, and a real kernel runs every cell."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tests.conftest import ROOT, Project, copy_made

NOTEBOOK = Path("docs/notebooks/first_hour.ipynb")
MOST_BYTES = 200 * 1024
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:root|home|tmp|work|Users|var|mnt)/|site-packages|\bhostname\b")


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_is_stored_whole_and_names_no_machine() -> None:
    text = (ROOT / NOTEBOOK).read_text(encoding="utf-8")
    assert len(text) <= MOST_BYTES
    notebook = json.loads(text)
    cells = code_cells(notebook)
    counts = [cell["execution_count"] for cell in cells]
    assert counts in (list(range(1, len(cells) + 1)), [None] * len(cells)), "executed from top to bottom, or not at all"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert OF_A_MACHINE.findall(json.dumps(outputs)) == []
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert {frozenset(cell["metadata"]) for cell in cells} == {frozenset()}


def test_every_cell_runs_in_a_real_kernel(made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_made(made, tmp_path / "project")
    target = project / str(NOTEBOOK)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((ROOT / NOTEBOOK).read_bytes())
    for name, value in {"EVERGREEN_HOME": str(project.home), "PYTHONPATH": str(ROOT), "PATH": _path()}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(target, as_version=4)
    stored = {cell["id"]: cell["source"] for cell in notebook.cells}
    resources = {"metadata": {"path": str(target.parent)}}
    nbclient.NotebookClient(notebook, startup_timeout=600, timeout=1500, resources=resources).execute()
    assert {cell["id"]: cell["source"] for cell in notebook.cells} == stored
    assert text_of(notebook, "trained.scores").startswith("accuracy ")
    assert "frozen control" in text_of(notebook, "trained.scores")
    assert "FINISHED" in text_of(notebook, "mlflow.search_runs")
    assert text_of(notebook, "again = evergreen.load") == "True"
    assert "what to do: " in text_of(notebook, "except evergreen.InputError")


def text_of(notebook: Any, words: str) -> str:
    """Return the text of the last output of the first cell with these words."""
    cell = next(cell for cell in code_cells(notebook) if words in cell["source"])
    output = cell["outputs"][-1]
    return str(output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"])


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
