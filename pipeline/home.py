"""The home of state: one folder outside git and DVC, shared by all worktrees of a clone, and its user's alone.

Folders in it are 0700 and files 0600, whatever the umask was. A home that an earlier version left open is closed at the next
start.
"""

import hashlib
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import InputError, ToolError
from pipeline.output.plain_text import print_line

PROJECT_FILE = "dvc.yaml"  # marks the project's own folder, wherever git keeps its files
ARTIFACTS, DVC_LOCK = Path("artifacts"), Path("dvc.lock")  # of the last `dvc repro` in a working tree
PACKAGE = ARTIFACTS / "package"
MAIN_TREE = "EVERGREEN_MAIN_TREE"  # handed to processes in a linked worktree whose main one git cannot name
NO_REPOSITORY = "not a git repository (or any"
OTHERS = stat.S_IRWXG | stat.S_IRWXO
DVC_REMOTE = "dvc-remote"  # DVC sets the modes of its objects, and hashes those again that have others
OURS = {  # names by which a home of an earlier version is recognised
    *(DVC_REMOTE, "mlflow.db", "mlflow.lock", "state.db", "state.lock", "tokens.json", "callback.key", "models", "checkpoints"),
    *(
        "prefix",
        "studies",
        "alerts",
        "gateway",
        "inbox",
        "console",
        "log-sessions",
        "predictions",
        "references",
        "retrain",
        "triton",
    ),
}


def find_home() -> Path:
    """Return the home of state; create it, for this user alone."""
    home = home_path()
    keep_private(home)
    return home


def home_path(project: Path | None = None) -> Path:
    """Return the absolute `EVERGREEN_HOME`, by default `live/` of the main working tree, whether or not it exists.

    The project is the one around the current folder, unless another is given.
    """
    chosen = os.environ.get("EVERGREEN_HOME")
    return Path(chosen).resolve() if chosen else main_worktree(project) / "live"


def keep_private(home: Path) -> None:
    """Create the home for this user alone, and let this process and its children create files for this user alone.

    Raise `InputError` for a folder that other users can read and that holds other things: to close it might lock them out.
    """
    os.umask(OTHERS)
    home.mkdir(parents=True, exist_ok=True)
    status = home.stat()
    if not status.st_mode & OTHERS or status.st_uid != os.geteuid():  # a volume of the cluster belongs to its storage
        return
    names = {path.name for path in home.iterdir()}
    if status.st_mode & stat.S_ISVTX or (names and names.isdisjoint(OURS)):
        what = "this folder is open to other users and holds other files, so it is no home of state"
        raise InputError(str(home), what, "set EVERGREEN_HOME to a new folder")
    closed = close_to_others(home)
    _close(home)  # last: an open home means that closing was interrupted
    if closed:
        print_line(f"{home}: other users of this machine could read {closed} files and folders; now only you can", sys.stderr)


def close_to_others(folder: Path) -> int:
    """Remove the rights of group and others from everything in a folder; return how many files and folders had any."""
    return sum(_close(path) for path in _under(folder))


def _under(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != DVC_REMOTE]
        for name in (*folders, *files):
            yield Path(root, name)


def _close(path: Path) -> bool:
    """Remove the rights of group and others, never through a link; return whether there were any."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or not mode & OTHERS:
            return False
        path.chmod(stat.S_IMODE(mode) & ~OTHERS)
    except (FileNotFoundError, PermissionError):  # a running process has just removed it; it belongs to another user
        return False
    return True


def home_digest(home: Path) -> str:
    """Return what tells a process of this home from that of another, and not where the home is."""
    return hashlib.sha256(str(home).encode()).hexdigest()[:16]


def main_worktree(project: Path | None = None) -> Path:
    """Return the project's folder in the main working tree, also when called from a linked worktree.

    A submodule and a clone with a separate git folder are found by their working tree, not by the place of their git files. In
    an unpacked archive, without git, it is the project's folder.
    """
    if given := os.environ.get(MAIN_TREE):
        return Path(given)
    project = project or project_folder()
    try:
        paths = git("rev-parse", "--path-format=absolute", "--show-toplevel", "--git-dir", "--git-common-dir", folder=project)
    except ToolError as error:
        if project is None or NO_REPOSITORY not in error.what:
            raise
        return project
    tree, git_folder, common = map(Path, paths.split("\n"))
    main = tree if git_folder == common else _main_tree(common) or tree
    return main / project.relative_to(tree) if project and project.is_relative_to(tree) else main


def _main_tree(common: Path) -> Path | None:
    """Return the main working tree of the shared git folder; None when it has none, or git does not say where."""
    for name in ("config.worktree", "config"):  # a submodule's git folder names its working tree
        try:
            named = git("config", "--file", str(common / name), "core.worktree")
        except ToolError:
            continue
        return (common / named).resolve()
    return common.parent if common.name == ".git" else None


def project_folder() -> Path | None:
    """Return the nearest folder above the current one, or itself, that holds the pipeline; None outside of a project."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / PROJECT_FILE).is_file()), None)


def require_commit() -> None:
    """Raise `ToolError` unless the project is in a git repository of its own with a commit: DVC and lineage need both."""
    project = project_folder()
    where = git("rev-parse", "--show-toplevel", folder=project)
    if project and Path(where) != project and not git("ls-files", "--", PROJECT_FILE, folder=project):
        what = f"the project is a folder inside the git repository {where}, which does not track it"
        raise ToolError(str(project), what, _make_repository(project))
    git("rev-parse", "--verify", "HEAD", folder=project)


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file; the characters that mean something in a URL are quoted, spaces stay."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def is_dirty(folder: Path | None = None) -> bool:
    """Return True when tracked files of the repository around the folder, by default the current one, differ from the commit."""
    return bool(git("status", "--porcelain", "--untracked-files=no", folder=folder))


def git(*arguments: str, folder: Path | None = None) -> str:
    """Return the output of a git command, by default in the current folder; raise `ToolError` with advice when it fails.

    The repository is found from the folder: variables such as `GIT_DIR`, which hooks of another repository set, do not count.
    """
    environment = {**without_git(os.environ), "LC_ALL": "C"}  # messages in English, which `_advice` knows
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="surrogateescape", check=True
        )
    except FileNotFoundError:
        raise ToolError("git", "the program is not installed", "install git; DVC needs it too") from None
    except subprocess.CalledProcessError as error:
        what = error.stderr.strip() or f"it ended with {error.returncode}"
        raise ToolError("git", *_advice(what, command, folder or Path.cwd())) from None
    return done.stdout.removesuffix("\n")


def without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without git's variables that name a repository."""
    kept = ("GIT_CONFIG_", "GIT_CEILING_DIRECTORIES", "GIT_SSH", "GIT_ASKPASS", "GIT_TERMINAL_PROMPT", "GIT_TEST_", "GIT_SSL_")
    return {name: value for name, value in environment.items() if not name.startswith("GIT_") or name.startswith(kept)}


def _advice(what: str, command: list[str], folder: Path) -> tuple[str, str]:
    """Return what went wrong and the one thing to do about it."""
    if "dubious ownership" in what:
        return _foreign_owner(project_folder() or folder)
    if NO_REPOSITORY in what:
        return what.partition("\n")[0], _make_repository(project_folder() or folder)
    if "Needed a single revision" in what or "unknown revision" in what:
        return "this repository has no commit yet", "commit the project: git add --all && git commit --message start"
    return what, f"run it by hand and mend what it names: {shlex.join(command)}"


def _foreign_owner(folder: Path) -> tuple[str, str]:
    """Explain git's refusal to work in another user's folder."""
    where = shlex.quote(str(folder))
    if os.access(folder, os.W_OK):
        what = f"another user owns {folder}, and git runs there only if you trust that user"
        return what, f"trust this folder, if you do: git config --global --add safe.directory {where}"
    what = f"another user owns {folder}, and you may not write there"
    return what, f"make it yours: sudo chown -R $(id -u) {where}"


def _make_repository(folder: Path) -> str:
    where = shlex.quote(str(folder))
    return (
        "clone the project, or make this folder a repository: "
        f"cd {where} && git init && git add --all && git commit --message start"
    )
