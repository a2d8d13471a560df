"""`evergreen.load`: a published version, a package or a saved model, verified and opened without a server."""

import warnings
from pathlib import Path

from evergreen.api.model import EvergreenModel
from evergreen.api.project import find_project
from pipeline.errors import InputError
from pipeline.home import PACKAGE, home_path
from serving.release.manifest import MANIFEST
from serving.release.offline import find_package

STACK_LEVEL = 2  # of a warning: the caller's line


def load(name: str | int | Path | None = None) -> EvergreenModel:
    """Return the model of a role (`champion`, `challenger`, `previous`), a version number or a folder.

    A folder is one that `save` wrote, a package, or an `artifacts/` with a package in it. Without a name it is the champion, or
    the last model that `dvc repro` made where nothing has been published. Raise `InputError` for a name that nothing has, and
    `RefusedError` for a package that is not whole.
    """
    project = find_project()
    home = home_path(project)
    if isinstance(name, bool) or not (name is None or isinstance(name, str | int | Path)):
        what = f"a {type(name).__name__} names no model"
        raise InputError("load", what, "name a role, a version or a folder: evergreen.load('champion')")
    package = find_package(None if name is None else _package_in(str(name)), home, last_made=project / PACKAGE)
    model = EvergreenModel(package)
    for note in model.notes:
        warnings.warn(note, RuntimeWarning, stacklevel=STACK_LEVEL)
    return model


def _package_in(name: str) -> str:
    """Return the package in a folder of artifacts; any other name stays."""
    folder = Path(name)
    if not folder.is_dir() or (folder / MANIFEST).is_file():
        return name
    if (folder / PACKAGE.name / MANIFEST).is_file():
        return str(folder / PACKAGE.name)
    what = "this folder holds no model: neither manifest.json nor package/manifest.json is there"
    raise InputError(name, what, "finish it: make repro; or name what model.save(…) wrote")
