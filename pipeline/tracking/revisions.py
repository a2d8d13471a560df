"""Reads files of another git revision or DVC experiment, without checking it out."""

from pathlib import Path

from pipeline.errors import InputError


def read_files(revision: str, paths: list[Path]) -> dict[Path, bytes]:
    """Return the content of those of these files that the revision has; raise `InputError` for an unknown revision."""
    from dvc.api import DVCFileSystem  # takes a second to import
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        files = DVCFileSystem(repo=".", rev=revision)
        return {path: files.read_bytes(path.as_posix()) for path in paths if files.exists(path.as_posix())}
    except (DvcException, SCMError) as error:
        what = f"it is no experiment, branch, tag or commit: {error}"
        raise InputError(revision, what, ".venv/bin/dvc exp list --all-commits shows the experiments") from None
    except OSError as error:
        what = f"its files are not in DVC's cache: {error}"
        raise InputError(revision, what, "fetch them: .venv/bin/dvc pull; or run the experiment again") from None
