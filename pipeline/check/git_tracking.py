"""Whether git has the user's data, or gets it from `dvc exp run`.

DVC adds a stage's dependency to git when it is inside the project, not under `dvc add` and not ignored, and commits it with the
experiment, under refs/exps. There it stays for good, and `dvc exp push` publishes it.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from pipeline.check.check_line import CheckLine
from pipeline.errors import ToolError
from pipeline.home import git
from pipeline.params import Params

SHIPPED = ("data/support_desk.jsonl", "data/no_test.csv", "data/no_unlabelled.csv", "data/no_out_of_scope.csv")  # on purpose
MODIFIED = "M"


def check_git(params: Params) -> Iterator[CheckLine]:
    """Warn about each file of rows that git tracks, that the next experiment commits, or that an earlier one committed."""
    data = params.data
    for path in dict.fromkeys((data.source, data.test, data.unlabelled, params.abstain.out_of_scope)):
        if path.is_file() and not path.is_symlink() and _is_inside(path):  # of a link, git has its target's name alone
            yield from _examine(path)


def _examine(path: Path) -> Iterator[CheckLine]:
    name, quoted = str(path), shlex.quote(str(path))
    state = git("--literal-pathspecs", "status", "--porcelain", "--untracked-files=all", "--ignored", "--", name)[:2]
    is_added = Path(f"{path}.dvc").is_file()
    if state not in ("??", "!!"):
        if name not in SHIPPED or MODIFIED in state:
            yield CheckLine("warning", f"{path}: git tracks this file, so every clone has its texts, and the history keeps them")
            yield CheckLine(
                "detail", f"to track its hash alone from now on: git rm --cached {quoted} && .venv/bin/dvc add {quoted}"
            )
    elif state == "??" and not is_added:
        yield CheckLine("warning", f"{path}: `dvc exp run` will commit this file to git, under refs/exps")
        yield CheckLine("detail", f"first: .venv/bin/dvc add {quoted}; or keep the file outside of the project")
    elif commit := git("--literal-pathspecs", "rev-list", "--max-count=1", "--glob=refs/exps/*", "--not", "HEAD", "--", name):
        yield CheckLine("warning", f"{path}: an earlier experiment committed this file to git (commit {commit[:9]})")
        yield CheckLine("detail", "find and remove it: .venv/bin/dvc exp list --all-commits, then .venv/bin/dvc exp remove NAME")


def _is_inside(path: Path) -> bool:
    """Return whether a file's folder is in the project's repository, and not in a submodule, which DVC leaves alone."""
    try:
        return git("rev-parse", "--show-toplevel", folder=path.parent) == git("rev-parse", "--show-toplevel")
    except ToolError:  # in no repository
        return False
