"""Reads files of another git revision or DVC experiment, without checking it out."""

from contextlib import suppress
from pathlib import Path

from pipeline.errors import InputError


def read_files(revision: str, paths: list[Path]) -> dict[Path, bytes]:
    """Return the content of those of these files that the revision has; raise `InputError` for an unknown revision."""
    from dvc.api import DVCFileSystem  # takes a second to import
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        files = DVCFileSystem(repo=".", rev=revision)
        found = {}
        for path in paths:
            with suppress(FileNotFoundError):
                found[path] = files.read_bytes(path.as_posix())  # `exists` would hide an unknown revision
        return found
    except (DvcException, SCMError) as error:
        what = f"it is no experiment, branch, tag or commit: {error}"
        raise InputError(revision, what, ".venv/bin/dvc exp list --all-commits shows the experiments") from None
    except OSError as error:
        what = f"its files are not in DVC's cache: {error}"
        raise InputError(revision, what, "fetch them: .venv/bin/dvc pull; or run the experiment again") from None
