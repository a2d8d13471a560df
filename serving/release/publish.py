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

import sqlalchemy as sa
from filelock import FileLock

from pipeline import tracking
from pipeline.data.records import write_json
from pipeline.errors import InputError, RefusedError
from serving.release.manifest import LINEAGE, content_digest, model_name, read_verified, repository
from serving.release.release_table import UNIQUE_ROLES, Release, Role, add_release, find_release, roles
from state.database import open_state


class Published(NamedTuple):
    """What stands after publish."""

    release: Release
    folder: Path
    was_there: bool  # True when this content had been published before


def publish(
    package: Path,
    dvc_lock: Path,
    name: str,
    home: Path,
    at: Callable[[str], None] = lambda _point: None,
    *,
    decision: int | None = None,
    may: Callable[[sa.Connection], None] = lambda _connection: None,
) -> Published:
    """Register, copy, enter, project; `at` is told each point that has been reached.

    `decision` is the one that asked for it. `may` raises when whoever publishes has lost the right to: before anything is done,
    and again in the transaction that enters the version.
    """
    digest = content_digest(read_verified(package))
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "publish.lock"), open_state(home) as engine, tracking.registry(home):
        with engine.begin() as connection:
            may(connection)
            known = find_release(connection, digest=digest)
            parent = find_release(connection, role="champion")
        lineage = _lineage(package, dvc_lock, digest, parent, decision)
        at("before registering")
        tags = {key: str(value) for key, value in lineage.items()}
        version = known.version if known else tracking.register(name, lineage["mlflow_run_id"], package / "1", tags)
        at("registered")
        folder = _copy_live(package, home, version, lineage, at)
        at("copied")
        with engine.begin() as connection:
            may(connection)
            release = add_release(connection, version, digest)
            now = roles(connection)
        at("released")
        for role in UNIQUE_ROLES:
            tracking.set_alias(name, role, now.get(role))
    return Published(release, folder, known is not None)


def is_other_than(release: Release, package: Path) -> bool:
    """Whether the package holds something else than this release."""
    return content_digest(read_verified(package)) != release.content_digest


def champion(home: Path) -> Release | None:
    """What serves, by the release table."""
    return release_of(home, "champion")


def release_of(home: Path, role: Role) -> Release | None:
    """The version that has this role."""
    with open_state(home) as engine, engine.begin() as connection:
        return find_release(connection, role=role)


def _copy_live(package: Path, home: Path, version: int, lineage: dict[str, Any], at: Callable[[str], None]) -> Path:
    """The version's folder in the live repository; a whole one is never rewritten, a torn one (power cut) is laid anew."""
    target = repository(home) / model_name(version)
    held = _content_of(target)
    if held == lineage["content_digest"]:
        return target
    if held is not None:
        what = (
            f"version {version} of the registry is new, but this folder holds another model (the registry was lost or changed?)"
        )
        raise RefusedError(str(target), what, "bring the old registry back, or move this folder and the state database away")
    staged = home / "staging" / model_name(version)
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(package, staged, ignore=shutil.ignore_patterns("__pycache__"))
    at("staged")
    write_json(staged / LINEAGE, {"version": version, **lineage, "published_at": datetime.now(UTC).isoformat(timespec="seconds")})
    read_verified(staged)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    staged.replace(target)
    return target


def _content_of(folder: Path) -> str | None:
    """Content digest of a whole package, None for one that is torn or absent."""
    try:
        return content_digest(read_verified(folder))
    except RefusedError:
        return None


def _lineage(package: Path, dvc_lock: Path, digest: str, parent: Release | None, decision: int | None) -> dict[str, Any]:
    """Where this content comes from; `parent_version` is the champion at the time, `decision` the retrain that asked for it."""
    if not dvc_lock.is_file():
        raise InputError(str(dvc_lock), "there is no such file", "run the pipeline first: .venv/bin/dvc repro")
    origin: dict[str, Any] = json.loads((package / "1" / "model.json").read_text(encoding="utf-8"))["origin"]
    return {
        "content_digest": digest,
        **origin,
        "dvc_lock_digest": sha256(dvc_lock.read_bytes()).hexdigest(),
        "parent_version": parent.version if parent else None,
        "decision": decision,
    }
