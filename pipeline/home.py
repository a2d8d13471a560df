"""The home of state: one folder outside git and DVC, shared by all worktrees of a clone."""

import os
import subprocess
from pathlib import Path

from pipeline.errors import ToolError


def find_home() -> Path:
    """Return the absolute `EVERGREEN_HOME`, by default `live/` of the main working tree; create it when absent."""
    chosen = os.environ.get("EVERGREEN_HOME")
    home = Path(chosen).resolve() if chosen else main_worktree() / "live"
    home.mkdir(parents=True, exist_ok=True)
    return home


def main_worktree() -> Path:
    """Return the folder of the clone's main working tree, also when called from a linked worktree."""
    return Path(git("rev-parse", "--path-format=absolute", "--git-common-dir")).parent


def is_dirty() -> bool:
    """Return True when tracked files differ from the commit."""
    return bool(git("status", "--porcelain", "--untracked-files=no"))


def git(*arguments: str) -> str:
    """Return the output of a git command in the current folder; raise `ToolError` when it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ToolError("git", "the program is not installed", "install git; DVC needs it too") from None
    except subprocess.CalledProcessError as error:
        raise ToolError("git", error.stderr.strip(), "work in a git clone of the project, not in an unpacked archive") from None
    return done.stdout.strip()
