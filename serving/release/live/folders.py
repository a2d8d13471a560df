"""Folders of versions: live ones, from which Triton loads, and parked ones of versions without a role."""

import re
import shutil
from pathlib import Path

from serving.release.manifest import model_name, repository
from serving.release.signature import read_signed
from serving.release.signing_keys import trusted_folder, trusted_keys


def park(home: Path, in_role: set[int]) -> list[int]:
    """Move the folders of versions without a role out of the live repository; returns their numbers."""
    moved = []
    for folder in sorted(repository(home).iterdir()):
        match = re.fullmatch(r"intent-(\d+)", folder.name)
        version = int(match[1]) if match else 0
        if match and version not in in_role:
            target = _parked(home, version)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)
            moved.append(version)
    return moved


def unpark(home: Path, version: int) -> Path:
    """Return the version's live folder, moved back when it was parked."""
    folder, parked = repository(home) / model_name(version), _parked(home, version)
    if parked.is_dir() and not folder.exists():
        parked.replace(folder)
    return folder


def verified(home: Path, version: int) -> Path:
    """Return the version's live folder, ready for Triton; raise `RefusedError` unless it is whole, unaltered and signed."""
    folder = unpark(home, version)
    read_signed(folder, trusted_keys(trusted_folder(home)))
    return folder


def _parked(home: Path, version: int) -> Path:
    return home / "parked" / model_name(version)
