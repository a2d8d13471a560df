"""The notebook is stored with the outputs of one run, names no machine, and gives the same kinds of output in a real kernel."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Project, copy_made
from tests.docs.notebooks import code_cells, execute, kinds, texts

NOTEBOOK = Path("docs/notebooks/first_hour.ipynb")
MOST_BYTES = 200 * 1024
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:root|home|tmp|work|Users|var|mnt)/|site-packages|\bhostname\b|\b0x[0-9a-f]{6,}")


@pytest.fixture(scope="module")
def stored() -> Any:
    return json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))


def test_every_cell_is_stored_with_its_output_in_the_order_of_one_run(stored: Any) -> None:
    cells = code_cells(stored)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell["id"] for cell in cells if not cell["outputs"]] == []
    assert [kind for cell in cells for kind in kinds(cell) if kind[0] == "error"] == []


def test_it_names_no_machine_and_is_small(stored: Any) -> None:
    assert (ROOT / NOTEBOOK).stat().st_size <= MOST_BYTES
    assert [found for text in texts(stored) for found in OF_A_MACHINE.findall(text)] == []
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert {frozenset(cell["metadata"]) for cell in code_cells(stored)} == {frozenset()}


def test_the_stored_numbers_agree_with_each_other(stored: Any) -> None:
    """The scores in words, as a table and in MLflow are of one training."""
    words = text_of(stored, "trained.scores")
    accuracy, control = (float(share) / 100 for share in re.findall(r"(?:accuracy|control) ([\d.]+) %", words))
    table, run = text_of(stored, "measured = "), text_of(stored, "mlflow.search_runs")
    for text, name in ((table, "accuracy"), (run, "metrics.test/accuracy")):
        assert float(re.findall(rf"^{name}\s+([\d.]+)", text, re.M)[0]) == pytest.approx(accuracy, abs=6e-4)
    assert float(re.findall(r"^metrics.control/accuracy\s+([\d.]+)", run, re.M)[0]) == pytest.approx(control, abs=6e-4)


def test_every_cell_runs_in_a_real_kernel_with_the_kinds_of_output_that_are_stored(
    stored: Any, made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_made(made, tmp_path / "project")
    target = project / str(NOTEBOOK)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((ROOT / NOTEBOOK).read_bytes())
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name, value in {"EVERGREEN_HOME": str(project.home), "PYTHONPATH": str(ROOT), "PATH": path}.items():
        monkeypatch.setenv(name, value)
    executed = execute(target)
    assert {cell["id"]: kinds(cell) for cell in code_cells(executed)} == {cell["id"]: kinds(cell) for cell in code_cells(stored)}
    assert text_of(executed, "trained.scores").startswith("accuracy ")
    assert "frozen control" in text_of(executed, "trained.scores")
    assert "FINISHED" in text_of(executed, "mlflow.search_runs")
    assert text_of(executed, "again = evergreen.load") == "True"
    assert "what to do: " in text_of(executed, "except evergreen.InputError")


def text_of(notebook: Any, words: str) -> str:
    """Return the text of the last output of the first cell with these words."""
    cell = next(cell for cell in code_cells(notebook) if words in "".join(cell["source"]))
    output = cell["outputs"][-1]
    return "".join(output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"])
