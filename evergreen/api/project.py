"""Finds the project whose params and models the API uses, from any working directory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError
from pipeline.home import PROJECT_FILE, home_path, keep_private
from pipeline.tracking.address import tracking_uri as tracking_address

PARAMS, CODE = "params.yaml", "pipeline"


def find_project() -> Path:
    """Return the nearest project at or above the current folder, else the one that this package is installed from.

    Raise `InputError` when there is neither.
    """
    here, installed = Path.cwd(), Path(__file__).parents[2]
    project = next((folder for folder in (here, *here.parents, installed) if _is_project(folder)), None)
    if project is None:
        what = "no project of Evergreen is here or above, and this package is not installed from one"
        raise InputError(str(here), what, "change to the folder of your clone: os.chdir(…)")
    return project


def tracking_uri() -> str:
    """Return the address of the MLflow store, for `mlflow.set_tracking_uri`."""
    return tracking_address(home_path(find_project()))


@contextmanager
def private_home(project: Path) -> Iterator[Path]:
    """Yield the home of state and create files for this user alone; afterwards the process does as before."""
    home = home_path(project)
    mask = os.umask(0o077)
    try:
        keep_private(home)
        yield home
    finally:
        os.umask(mask)


def _is_project(folder: Path) -> bool:
    return all((folder / name).exists() for name in (PROJECT_FILE, PARAMS, CODE))
