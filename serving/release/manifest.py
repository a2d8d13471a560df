"""The manifest of a packaged model: SHA-256 and size of every file, in `manifest.json`, which is written last.

A package is exactly what its manifest lists: plain files of known kinds, no link, no folder without a listed file.
"""

import hashlib
import json
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import RefusedError

MANIFEST = "manifest.json"
LINEAGE = "lineage.json"  # written by publish, after the manifest
SIGNATURE = "model.sig"  # and this last; it covers both
UNLISTED = (MANIFEST, LINEAGE, SIGNATURE)
SUFFIXES = frozenset({".json", ".npz", ".onnx", ".parquet", ".pbtxt", ".pt2", ".py", ".txt"})
WARMUP = "warmup"  # its files have no suffix
PACKAGE_AGAIN = "make the package again: .venv/bin/dvc repro -f package"


def model_name(version: int) -> str:
    """Return the Triton model of a version: a separate one, because loading one version of a model reloads its others."""
    return f"intent-{version}"


def repository(home: Path) -> Path:
    """Return the folder that Triton serves from."""
    return home / "models"


def version_folder(home: Path, version: int) -> Path:
    """Return the version's folder where it is: live, or parked without a role."""
    live, parked = repository(home) / model_name(version), home / "parked" / model_name(version)
    return parked if parked.is_dir() and not live.exists() else live


def read_lineage(folder: Path) -> dict[str, Any]:
    """Return what publish has written about a version; empty when that cannot be read."""
    try:
        lineage: dict[str, Any] = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return lineage


def describe_files(folder: Path) -> dict[str, Any]:
    """Return the content of a manifest for the files of this folder."""
    paths = _listed(package_files(folder))
    return {
        "files": {name: file_digest(path) for name, path in paths.items()},
        "sizes": {name: path.stat().st_size for name, path in paths.items()},
    }


def package_files(folder: Path, *, follow_links: bool = False) -> dict[str, Path]:
    """Return every file under the folder by relative path; raise `RefusedError` for a link and whatever is no plain file.

    `follow_links` allows links to files, as DVC makes them: the files that they lead to are the package's.
    """
    if folder.is_symlink() and not follow_links:
        raise RefusedError(str(folder), "this is a link, not a package", "remove it, and publish the package again")
    found: dict[str, Path] = {}
    for root, folders, files in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *files)):
            name = path.relative_to(folder).as_posix()
            status = path.stat() if follow_links and path.is_file() else path.lstat()
            if stat.S_ISREG(status.st_mode) and (follow_links or status.st_nlink == 1):
                found[name] = path
            elif not stat.S_ISDIR(status.st_mode):
                what = "a package holds plain files: no links, pipes, sockets or devices"
                raise RefusedError(str(path), what, "remove it, and find out who made it")
    return dict(sorted(found.items()))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(manifest: dict[str, Any]) -> str:
    """Return one SHA-256 for the whole package."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def package_digest(package: Path) -> str:
    """Return the content digest of a complete package, whose files DVC may have linked; raise `RefusedError` for another."""
    return content_digest(read_verified(package, follow_links=True))


def content_of(folder: Path) -> str | None:
    """Return the content digest of a complete, unaltered package, None for a damaged or missing one."""
    try:
        return content_digest(read_verified(folder))
    except RefusedError:
        return None


def read_manifest(text: str, where: str) -> dict[str, Any]:
    """Return a manifest; raise `RefusedError` when it names no files, or a file of a kind that no package has."""
    try:
        manifest: dict[str, Any] = json.loads(text)
        files, sizes = manifest["files"], manifest.get("sizes", {})
        is_whole = isinstance(files, dict) and isinstance(sizes, dict) and all(type(size) is int for size in sizes.values())
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise RefusedError(where, "the manifest is damaged", PACKAGE_AGAIN)
    for name in sorted(files):
        if not _is_known_kind(PurePosixPath(name)):
            raise RefusedError(where, f"{name!r} is of a kind that no package holds", "find out who wrote it")
    return manifest


def read_verified(folder: Path, *, follow_links: bool = False) -> dict[str, Any]:
    """Return the manifest of a complete, unaltered package; raise `RefusedError` for a missing, extra or different file."""
    if not (folder / MANIFEST).is_file():
        raise RefusedError(str(folder), "there is no complete package here (no manifest.json)", "make one: .venv/bin/dvc repro")
    files = package_files(folder, follow_links=follow_links)
    manifest = read_manifest(files[MANIFEST].read_text(encoding="utf-8", errors="replace"), str(folder / MANIFEST))
    actual, listed = _listed(files), manifest["files"]
    _refuse_other_names(folder, set(actual), set(listed))
    for name, path in actual.items():
        size = manifest.get("sizes", {}).get(name)
        if (size is not None and path.stat().st_size != size) or file_digest(path) != listed[name]:
            raise RefusedError(str(folder / name), "the file does not have the SHA-256 of the manifest", PACKAGE_AGAIN)
    return manifest


def _refuse_other_names(folder: Path, actual: set[str], listed: set[str]) -> None:
    """Raise `RefusedError` for a file that is missing or not listed, and for a folder without a listed file."""
    for name in sorted(actual ^ listed):
        what = "the manifest lists no such file" if name in actual else "this file of the manifest is missing"
        raise RefusedError(str(folder / name), what, PACKAGE_AGAIN)
    wanted = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    for path in folder.rglob("*"):
        if path.is_dir() and path.relative_to(folder).as_posix() not in wanted:
            raise RefusedError(str(path), "the manifest lists no file in this folder", PACKAGE_AGAIN)


def _listed(files: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in files.items() if name not in UNLISTED}


def _is_known_kind(name: PurePosixPath) -> bool:
    return name.suffix in SUFFIXES or (name.suffix == "" and name.parts[:-1] == (WARMUP,))
