"""Execute a notebook in a real kernel. `python -m tests.docs.notebooks FILE` stores the outputs, after `make repro`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat

START_TIMEOUT_S, CELL_TIMEOUT_S = 600, 1500
Kind = tuple[str, ...]


def execute(path: Path) -> Any:
    """Return the notebook after every cell has run in its folder; raises `CellExecutionError`."""
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    client = nbclient.NotebookClient(
        notebook,
        startup_timeout=START_TIMEOUT_S,
        timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,  # as a person's notebook shows them, with a progress bar as its last line
    )
    client.execute()
    notebook.metadata = metadata  # the kernel adds its version
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    """Return the cells that have outputs."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell: Any) -> list[Kind]:
    """Return the kind of each output: a stream by its name, a result by its media types."""
    return [_kind(output) for output in cell["outputs"]]


def _kind(output: Any) -> Kind:
    return (output["output_type"], *([output["name"]] if output["output_type"] == "stream" else sorted(output.get("data", {}))))


def texts(notebook: Any) -> Iterator[str]:
    """Yield every text that the outputs hold, whole or as a list of lines."""
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            values = [output["text"]] if output["output_type"] == "stream" else output.get("data", {}).values()
            yield from ("".join(value) for value in values)


def main() -> None:
    """Execute the notebook and store its outputs."""
    path = Path(sys.argv[1]).absolute()
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    nbformat.write(execute(path), path)


if __name__ == "__main__":
    main()
