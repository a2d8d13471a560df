"""Publish: a verified package becomes a numbered version in registry, live repository and release table.

Every step looks before it acts: a publish killed anywhere is completed by the next call, and a second call changes nothing.
"""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from pipeline import tracking
from pipeline.errors import InputError
from pipeline.home import git
from pipeline.records import write_json
from serving.model_repository import LINEAGE, content_digest, read_verified
from serving.state import UNIQUE_ROLES, Release, add_release, find_release, open_state, roles
from serving.triton import model_name


class Candidate(NamedTuple):
    """What publish takes in: folders and files that the pipeline wrote."""

    package: Path
    exported: Path
    data_report: Path
    dvc_lock: Path


class Published(NamedTuple):
    """What stands after publish."""

    release: Release
    folder: Path
    was_there: bool  # True when this content had been published before


def publish(candidate: Candidate, name: str, home: Path, at: Callable[[str], None] = lambda _point: None) -> Published:
    """Register, copy, enter, project; `at` is told each point that has been reached."""
    manifest = read_verified(candidate.package)
    digest = content_digest(manifest)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "publish.lock"), open_state(home) as engine, tracking.registry(home):
        with engine.begin() as connection:
            known = find_release(connection, digest=digest)
            champion = find_release(connection, role="champion")
        lineage = _lineage(candidate, digest, champion)
        at("before registering")
        run_id = lineage["mlflow_run_id"]
        version = (
            known.version
            if known
            else tracking.register(name, run_id, candidate.exported, {k: str(v) for k, v in lineage.items()})
        )
        at("registered")
        folder = _copy_live(candidate.package, home, version, lineage, at)
        at("copied")
        with engine.begin() as connection:
            release = add_release(connection, version, digest)
        at("released")
        with engine.begin() as connection:
            now = roles(connection)
        for role in UNIQUE_ROLES:
            tracking.set_alias(name, role, now.get(role))
    return Published(release, folder, known is not None)


def repository(home: Path) -> Path:
    """The folder that Triton serves from."""
    return home / "models"


def champion(home: Path) -> Release | None:
    """What serves, by the release table."""
    with open_state(home) as engine, engine.begin() as connection:
        return find_release(connection, role="champion")


def _copy_live(package: Path, home: Path, version: int, lineage: dict[str, Any], at: Callable[[str], None]) -> Path:
    """The version's folder in the live repository, whole or not there; numbers are never used twice, folders never rewritten."""
    target = repository(home) / model_name(version)
    if target.exists():
        read_verified(target)
        return target
    staged = home / "staging" / model_name(version)
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(package, staged, ignore=shutil.ignore_patterns("__pycache__"))
    at("staged")
    write_json(staged / LINEAGE, {"version": version, **lineage, "published_at": datetime.now(UTC).isoformat(timespec="seconds")})
    read_verified(staged)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(target)
    return target


def _lineage(candidate: Candidate, digest: str, parent: Release | None) -> dict[str, Any]:
    """Where this content comes from; `parent_version` is the champion at the time, `decision` the retrain that asked for it."""
    try:
        card = json.loads((candidate.exported / "model.json").read_text(encoding="utf-8"))
        report = json.loads(candidate.data_report.read_text(encoding="utf-8"))
        lock = candidate.dvc_lock.read_bytes()
    except FileNotFoundError as error:
        raise InputError(str(error.filename), "there is no such file", "run the pipeline first: .venv/bin/dvc repro") from None
    return {
        "content_digest": digest,
        "mlflow_run_id": card["mlflow_run_id"],
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "dvc_lock_digest": sha256(lock).hexdigest(),
        "data_digest": report["digest"],
        "parent_version": parent.version if parent else None,
        "decision": None,
    }
