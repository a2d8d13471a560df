"""Finds packaged models by the name that a person gives, and opens them without a Triton. Imports neither torch nor MLflow."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.abstention import Abstention, read_abstention
from pipeline.data.records import read_json
from pipeline.errors import InputError, RefusedError
from pipeline.home import PACKAGE
from pipeline.params import Params
from serving.release.manifest import MANIFEST, read_verified
from serving.release.release_table import UNIQUE_ROLES, versions
from serving.release.signature import signed_folder
from state.database import read_state

if TYPE_CHECKING:
    from pipeline.runtime.classifier import Classifier

PACKAGE_IT = ".venv/bin/dvc repro"
FALLBACK_SESSION = "onnxruntime-fp32"  # runs everywhere


class NamedPackage(NamedTuple):
    """A verified package; `version` is None for a folder that was not published under a number."""

    title: str  # for people
    folder: Path
    version: int | None
    notes: tuple[str, ...] = ()  # what a person should know before using it


class OpenedPackage(NamedTuple):
    """A package's classifier, and a note where another session than the package's makes its predictions."""

    classifier: "Classifier"
    abstention: Abstention
    notes: tuple[str, ...]


def find_package(name: str | None, home: Path, last_made: Path = PACKAGE) -> NamedPackage:
    """Return the package of a role, a version number or a folder, verified.

    Without a name it is the champion's, or `last_made` where nothing has been published. Raise `InputError` for a
    name that nothing has, and `RefusedError` for a package that is not whole.
    """
    published = _published(home)
    by_role = {str(role): version for version, role in published.items() if role in UNIQUE_ROLES}
    if name is None:
        name = "champion" if "champion" in by_role else str(last_made)
    version = int(name) if name.isdecimal() else by_role.get(name)
    if version is not None and version in published:
        return NamedPackage(f"version {version}, {published[version]}", signed_folder(version, home), version)
    folder = Path(name)
    if not (folder / MANIFEST).is_file():
        known = [*by_role, *map(str, published)]
        do = f"name one of {', '.join(known)}, or the folder of a package" if known else "make a model first: make repro"
        raise InputError(name, "this is no published version, no role and no folder of a package", do)
    read_verified(folder, follow_links=True)  # DVC may have linked its files
    outdated = outdated_note(folder)
    return NamedPackage(str(folder), folder, None, (outdated,) if outdated else ())


def outdated_note(package: Path) -> str:
    """Say that the artifacts around a package hold another training or other scores than the package, "" where they do not.

    A trial ends with its scores, so the package beside it is of an earlier model.
    """
    from pipeline.card.facts import CARD, read_report  # scipy, for a person who names a folder

    trained = read_report(package.parent / "model" / "origin.json")
    scores = read_report(package.parent / "evaluation" / "metrics.json")
    origin = read_report(package / "1" / "model.json").get("origin", {})
    packaged_scores = read_report(package / CARD).get("scores", scores)  # an older release packaged none
    is_trained_again = any(origin.get(name) != value for name, value in trained.items() if value is not None)
    if not is_trained_again and (not scores or scores == packaged_scores):
        return ""
    return f"{package} is of an earlier model than the last one trained here; to package that one: make repro ({PACKAGE_IT})"


def open_package(folder: Path, params: Params) -> OpenedPackage:
    """Open the package's classifier on all cores."""
    from pipeline.runtime.classifier import Classifier  # a question about packages does not wait for an engine
    from pipeline.runtime.sessions import SESSIONS, open_session

    model = folder / "1"
    session_name = str(read_json(folder / "session.json", "the package's session").get("session"))
    try:
        session = open_session(model, session_name, 0, token_budget=params.package.token_budget)
        return OpenedPackage(Classifier(model, session=session), read_abstention(folder), ())
    except Exception as error:  # an engine that cannot run here may raise anything
        if session_name == FALLBACK_SESSION or session_name not in SESSIONS:
            raise RefusedError(
                str(folder), f"the package cannot be opened: {str(error)[:200]}", "make it again: .venv/bin/dvc repro"
            ) from None
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    note = f"{folder.name} answered by {FALLBACK_SESSION}, because its own session cannot run here: {problem}"
    return OpenedPackage(Classifier(model), read_abstention(folder), (note,))


def _published(home: Path) -> dict[int, str]:
    """Return every published version with its role, newest first."""
    with read_state(home) as connection:
        return {} if connection is None else dict(versions(connection))
