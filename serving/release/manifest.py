"""A packaged model is whole and unaltered: SHA-256 of every file in `manifest.json`, which is written last."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.errors import RefusedError

MANIFEST = "manifest.json"
LINEAGE = "lineage.json"  # written by publish, after the manifest


def model_name(version: int) -> str:
    """Each version is a Triton model of its own: loading a version of one model would reload its siblings."""
    return f"intent-{version}"


def repository(home: Path) -> Path:
    """The folder that Triton serves from."""
    return home / "models"


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under the folder but the manifest and the lineage, by relative path."""
    unlisted = (folder / MANIFEST, folder / LINEAGE)
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p not in unlisted and "__pycache__" not in p.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def content_digest(manifest: dict[str, Any]) -> str:
    """One SHA-256 for the whole package."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def read_verified(folder: Path) -> dict[str, Any]:
    """The manifest of a whole, unaltered package; raises `RefusedError` naming the file that is absent, extra or different."""
    if not (folder / MANIFEST).is_file():
        raise RefusedError(str(folder), "there is no whole package here (no manifest.json)", "make one: .venv/bin/dvc repro")
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(
            str(folder / MANIFEST), "the manifest is torn", "make the package again: .venv/bin/dvc repro -f package"
        ) from None
    found = file_digests(folder)
    wrong = sorted(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name))
    if wrong:
        raise RefusedError(
            str(folder / wrong[0]),
            "the file does not have the SHA-256 of the manifest",
            "make the package again: .venv/bin/dvc repro -f package",
        )
    return manifest
