"""The manifest of a packaged model: SHA-256 of every file, in `manifest.json`, which is written last."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.errors import RefusedError

MANIFEST = "manifest.json"
LINEAGE = "lineage.json"  # written by publish, after the manifest


def model_name(version: int) -> str:
    """Return the Triton model of a version: a separate one, because loading one version of a model reloads its others."""
    return f"intent-{version}"


def repository(home: Path) -> Path:
    """Return the folder that Triton serves from."""
    return home / "models"


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under the folder, by relative path; manifest and lineage are left out."""
    unlisted = (folder / MANIFEST, folder / LINEAGE)
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p not in unlisted and "__pycache__" not in p.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def content_digest(manifest: dict[str, Any]) -> str:
    """Return one SHA-256 for the whole package."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def content_of(folder: Path) -> str | None:
    """Return the content digest of a complete, unaltered package, None for a damaged or missing one."""
    try:
        return content_digest(read_verified(folder))
    except RefusedError:
        return None


def read_verified(folder: Path) -> dict[str, Any]:
    """Return the manifest of a complete, unaltered package; raises `RefusedError` for a missing, extra or different file."""
    if not (folder / MANIFEST).is_file():
        raise RefusedError(str(folder), "there is no complete package here (no manifest.json)", "make one: .venv/bin/dvc repro")
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(
            str(folder / MANIFEST), "the manifest is damaged", "make the package again: .venv/bin/dvc repro -f package"
        ) from None
    actual = file_digests(folder)
    wrong = sorted(name for name in actual.keys() | listed.keys() if actual.get(name) != listed.get(name))
    if wrong:
        raise RefusedError(
            str(folder / wrong[0]),
            "the file does not have the SHA-256 of the manifest",
            "make the package again: .venv/bin/dvc repro -f package",
        )
    return manifest
