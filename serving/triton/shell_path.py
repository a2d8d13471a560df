"""Paths for Triton's Python backend, which starts its processes through a shell and quotes nothing."""

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

from pipeline.errors import ToolError

ONE_WORD = re.compile(r"[A-Za-z0-9_./+,@-]+")  # what no shell splits, expands or interprets


def shell_path(folder: Path) -> Path:
    """Return a path to the folder that any shell takes as one word: its own, or that of a link in a folder of this user alone."""
    folder = folder.absolute()
    if ONE_WORD.fullmatch(str(folder)):
        return folder
    link = _links() / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not link.is_symlink() or link.readlink() != folder:
        part = link.with_name(f"{link.name}-{os.getpid()}")
        part.unlink(missing_ok=True)
        part.symlink_to(folder)
        part.replace(link)
    return link


def _links() -> Path:
    """Return the folder of links; raise `ToolError` when another user could have put links there."""
    places = (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp")  # noqa: S108  # its owner is checked below
    place = next(place for place in places if ONE_WORD.fullmatch(place) and Path(place).is_dir())
    folder = Path(place) / f"evergreen-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ToolError(str(folder), "another user can write to this folder", "remove it, or set TMPDIR to a folder of yours")
    return folder
