"""Publish a verified package as a signed and numbered version in the registry, the live repository and the release table.

Every step checks what is done already: the next call completes a publish that was killed, and a second call changes nothing.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from pipeline.data.records import write_json
from pipeline.errors import RefusedError
from serving.release.inputs import locked_inputs
from serving.release.manifest import (
    LINEAGE,
    content_digest,
    content_of,
    model_name,
    package_digest,
    package_files,
    read_verified,
    repository,
)
from serving.release.release_table import (
    UNIQUE_ROLES,
    CheckLease,
    Release,
    Role,
    add_release,
    find_release,
    has_releases,
    refuse_unpublished,
    roles,
    versions,
)
from serving.release.signature import is_signed, read_signed, sign
from serving.release.signing_keys import signing_key, trusted_folder, trusted_keys
from state.database import open_state, read_state


class Published(NamedTuple):
    """A published version and its folder in the live repository."""

    release: Release
    folder: Path
    already_published: bool  # this content had a version before


def publish(
    package: Path,
    dvc_lock: Path,
    name: str,
    home: Path,
    reached: Callable[[str], None] = lambda _point: None,
    *,
    decision: int | None = None,
    check_lease: CheckLease = lambda _connection: None,
) -> Published:
    """Register the package, copy and sign it, add it to the release table and set the registry's aliases.

    `reached` is called with the name of each point passed. `decision` is the id of the retrain decision behind the package.
    `check_lease` raises when the caller has lost its lease: first of all, and again in the transaction that adds the version.
    """
    digest = package_digest(package)
    from pipeline.tracking import registry as model_registry  # imports MLflow, which takes seconds: refusals do without

    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "publish.lock"), open_state(home) as engine, model_registry.registry(home):
        with engine.begin() as connection:
            check_lease(connection)
            known = find_release(connection, digest=digest)
            parent = find_release(connection, role="champion")
        lineage = _lineage(package, dvc_lock, digest, parent, decision)
        reached("before registering")
        restore_registry(name, home)
        staged = _stage(package, home, digest)
        version = known.version if known else model_registry.register(name, staged / "1", lineage)
        reached("registered")
        folder = _make_live(staged, home, version, lineage, reached)
        reached("copied")
        with engine.begin() as connection:
            check_lease(connection)
            release = add_release(connection, version, digest)
            version_by_role = roles(connection)
        reached("released")
        for role in UNIQUE_ROLES:
            model_registry.set_alias(name, role, version_by_role.get(role))
    return Published(release, folder, known is not None)


def restore_registry(name: str, home: Path) -> list[int]:
    """Register the published versions again when the registry has lost the whole model; return their numbers.

    Without them MLflow would count from 1 again, and a new version would take the number of another.
    """
    from pipeline.tracking import registry as model_registry

    if model_registry.has_registered_model(name):
        return []
    found = {}
    for folder in (*repository(home).glob("*"), *(home / "parked").glob("*")):
        with suppress(OSError, ValueError, KeyError):
            lineage = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
            found[int(lineage["version"])] = folder / "1", lineage
    if found:
        model_registry.register_again(name, found)
    return sorted(found)


def differs(release: Release, package: Path) -> bool:
    """Return True when the package's content is not that of the release."""
    return package_digest(package) != release.content_digest


def champion(home: Path) -> Release | None:
    """Return the champion, by the release table."""
    return release_of(home, "champion")


def release_of(home: Path, role: Role) -> Release | None:
    """Return the version that has this role. Only reads: the schema is not migrated."""
    with read_state(home) as connection:
        return find_release(connection, role=role) if connection is not None and has_releases(connection) else None


def require_published(home: Path, version: int) -> None:
    """Raise `InputError` when this version was never published; `swap` asks again, under its lock."""
    with read_state(home) as connection:
        refuse_unpublished(version, versions(connection) if connection is not None and has_releases(connection) else {})


def released_version(home: Path, version: int) -> Release | None:
    """Return a published version with its role, whatever that is. Only reads, as above."""
    with read_state(home) as connection:
        return find_release(connection, version=version) if connection is not None and has_releases(connection) else None


def sign_released(folder: Path, release: Release, home: Path) -> bool:
    """Sign a version that was published before versions were signed; return whether this was such a version.

    Raise `RefusedError` when its content is not what was released.
    """
    if is_signed(folder):
        return False
    for cache in [path for path in folder.rglob("__pycache__") if not path.is_symlink()]:
        shutil.rmtree(cache, ignore_errors=True)  # the servers of that time let Python write bytecode there
    if content_digest(read_verified(folder)) != release.content_digest:
        what = f"this is not the content that was released as version {release.version}"
        raise RefusedError(str(folder), what, "publish its package again: .venv/bin/evergreen publish")
    sign(folder, folder.name, signing_key(home))
    return True


def _stage(package: Path, home: Path, digest: str) -> Path:
    """Return a copy of the package that has no links to anything outside, as DVC's may have."""
    staged = home / "staging" / digest[:16]
    shutil.rmtree(staged, ignore_errors=True)
    for name, path in package_files(package, follow_links=True).items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staged / name)
    if content_digest(read_verified(staged)) != digest:
        raise RefusedError(str(package), "the package has changed while it was published", "publish it again")
    return staged


def _make_live(staged: Path, home: Path, version: int, lineage: dict[str, Any], reached: Callable[[str], None]) -> Path:
    """Return the version's live folder. A complete one is never rewritten, a damaged one (power cut) is replaced."""
    target = repository(home) / model_name(version)
    live = content_of(target)
    if live is not None and live != lineage["content_digest"]:
        what = (
            f"version {version} of the registry is new, but this folder holds another model (the registry was lost or changed?)"
        )
        raise RefusedError(str(target), what, "restore the old registry, or move this folder and the state database away")
    if live is not None and not is_signed(target):  # published before versions were signed
        sign(target, target.name, signing_key(home))
    if live is None or not _is_trusted(target, home):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(staged / LINEAGE, {"version": version, **lineage, "published_at": now})
        sign(staged, target.name, signing_key(home))
        reached("staged")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        staged.replace(target)
    read_signed(target, trusted_keys(trusted_folder(home)))
    shutil.rmtree(staged, ignore_errors=True)
    return target


def _is_trusted(folder: Path, home: Path) -> bool:
    try:
        read_signed(folder, trusted_keys(trusted_folder(home)))
    except RefusedError:
        return False
    return True


def _lineage(package: Path, dvc_lock: Path, digest: str, parent: Release | None, decision: int | None) -> dict[str, Any]:
    """Return the origin of this content; `parent_version` is the champion at the time."""
    inputs = locked_inputs(dvc_lock)
    origin: dict[str, Any] = json.loads((package / "1" / "model.json").read_text(encoding="utf-8"))["origin"]
    return {
        "content_digest": digest,
        **origin,
        "dvc_lock_digest": sha256(dvc_lock.read_bytes()).hexdigest(),
        "parent_version": parent.version if parent else None,
        "decision": decision,
        "inputs": inputs._asdict(),
    }
