"""The release table: the version in each role. Registry aliases and the gateway's routing are projections of it."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import sqlalchemy as sa

from pipeline.errors import InputError
from state.tables import releases, routing

Role = Literal["champion", "challenger", "previous", "retired"]
UNIQUE_ROLES: tuple[Role, ...] = ("champion", "challenger", "previous")
CheckLease = Callable[[sa.Connection], None]  # raises when the caller may no longer write
OVER = (
    0.0  # end of a hold that is over: whoever keeps Triton in line unloads what nobody needs, and then notes that there is none
)
Record = Callable[[sa.Connection], None]  # writes what the caller knows of a change into its transaction; may be called again

# Statements that run often are built once.
_RELEASE = sa.select(releases.c.version, releases.c.content_digest, releases.c.role)
_RELEASE_BY = {name: _RELEASE.where(releases.c[name] == sa.bindparam("value")) for name in ("role", "content_digest", "version")}
_IN_ROLES = _RELEASE.where(releases.c.role.in_(UNIQUE_ROLES))
_CHANGE_ROLE = releases.update().where(releases.c.role == sa.bindparam("before")).values(role=sa.bindparam("after"))
_GIVE_ROLE = releases.update().where(releases.c.version == sa.bindparam("which")).values(role=sa.bindparam("after"))
_CHANGE_ROUTING = routing.update().values(revision=routing.c.revision + 1)
_HOLD = _CHANGE_ROUTING.values(keep_previous_until=sa.bindparam("until"))


class Release(NamedTuple):
    """A published version and its role."""

    version: int
    content_digest: str
    role: Role


def find_release(
    connection: sa.Connection, *, role: Role | None = None, digest: str | None = None, version: int | None = None
) -> Release | None:
    """Return the release with this role, content digest or version, None when there is none. Exactly one of them is given."""
    column, value = next(
        (column, value)
        for column, value in (("role", role), ("content_digest", digest), ("version", version))
        if value is not None
    )
    row = connection.execute(_RELEASE_BY[column], {"value": value}).one_or_none()
    return Release(*row) if row else None


def add_release(connection: sa.Connection, version: int, digest: str) -> Release:
    """Add a version as champion, or as challenger when there is a champion; the old challenger retires. A known digest stays."""
    _lock_releases(connection)
    known = find_release(connection, digest=digest)
    if known:
        return known
    role: Role = "challenger" if find_release(connection, role="champion") else "champion"
    if role == "challenger":
        connection.execute(_CHANGE_ROLE, {"before": role, "after": "retired"})
    new = {"version": version, "content_digest": digest, "role": role, "published_at": datetime.now(UTC)}
    connection.execute(releases.insert(), new)
    _all_to_champion(connection)
    return Release(version, digest, role)


def make_challenger(connection: sa.Connection, version: int) -> Role:
    """Make a published version challenger, without any traffic yet; return the role that it had. The old challenger retires.

    Raises `InputError` for the champion, and for a version that was never published.
    """
    _lock_releases(connection)
    published = versions(connection)
    refuse_unpublished(version, published)
    before = published[version]
    if before == "champion":
        raise InputError(f"version {version}", "it is champion already", "name another version")
    if before != "challenger":
        connection.execute(_CHANGE_ROLE, {"before": "challenger", "after": "retired"})
        connection.execute(_GIVE_ROLE, {"which": version, "after": "challenger"})
        _all_to_champion(connection)
    return before


def promote(connection: sa.Connection, version: int, keep_previous_until: float | None = None) -> None:
    """Make this version champion, the champion previous, and retire the previous one; all traffic goes to the champion.

    The previous champion stays loaded until then (seconds of the epoch), ready to be champion again at once.
    """
    _lock_releases(connection)
    champion = find_release(connection, role="champion")
    if champion and champion.version == version:
        return
    connection.execute(_CHANGE_ROLE, {"before": "previous", "after": "retired"})
    connection.execute(_GIVE_ROLE, {"which": version, "after": "retired"})  # each role has one version at every moment
    connection.execute(_CHANGE_ROLE, {"before": "champion", "after": "previous"})
    connection.execute(_GIVE_ROLE, {"which": version, "after": "champion"})
    _all_to_champion(connection)
    connection.execute(_HOLD, {"until": keep_previous_until if champion else None})


def take_back(connection: sa.Connection, version: int) -> Role:
    """Retire a version, and return the role that it had; if it was champion, the previous one is champion again.

    All traffic goes to the champion. A version that was retired before stays so, and nothing changes. Raises `InputError` for a
    champion without a previous one, and for a version that was never published.
    """
    _lock_releases(connection)
    role = versions(connection).get(version)
    if role is None or role == "retired":
        refuse_unpublished(version, versions(connection))
        return "retired"
    if role == "champion" and find_release(connection, role="previous") is None:
        what = "there is no previous champion to return to"
        raise InputError(f"version {version}", what, "name a version: .venv/bin/evergreen publish N")
    connection.execute(_GIVE_ROLE, {"which": version, "after": "retired"})
    if role == "champion":
        connection.execute(_CHANGE_ROLE, {"before": "previous", "after": "champion"})
    without_hold = routing.c.keep_previous_until.is_(None) if role == "challenger" else sa.true()
    connection.execute(_HOLD.where(without_hold), {"until": OVER})
    if role != "previous":  # which answers nobody: a release that runs goes on
        _all_to_champion(connection)
    return role


def end_hold(connection: sa.Connection, until: float) -> None:
    """Note that the previous champion is no longer kept loaded, unless it is held anew."""
    connection.execute(_HOLD.where(routing.c.keep_previous_until == until), {"until": None})


def has_releases(connection: sa.Connection) -> bool:
    """Return whether the database has the table already: a state that nobody has written to has none."""
    return sa.inspect(connection).has_table(releases.name)


def versions(connection: sa.Connection) -> dict[int, Role]:
    """Return every version with its role, newest first."""
    rows = connection.execute(sa.select(releases.c.version, releases.c.role).order_by(releases.c.version.desc()))
    return {row.version: row.role for row in rows}


def refuse_unpublished(version: int, published: dict[int, Role]) -> None:
    """Raise `InputError` when the version is not among the published ones."""
    if version not in published:
        listed = ", ".join(f"{number} ({role})" for number, role in published.items()) or "none"
        raise InputError(f"version {version}", f"it was never published; there are: {listed}", "choose one of them")


def roles(connection: sa.Connection) -> dict[Role, int]:
    """Return the version of each role that only one version can have."""
    return {row.role: row.version for row in connection.execute(_IN_ROLES)}


def _lock_releases(connection: sa.Connection) -> None:
    """Keep others from changing the releases between our read and our write; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE releases IN SHARE ROW EXCLUSIVE MODE")


def _all_to_champion(connection: sa.Connection) -> None:
    """Take the challenger's shares away and draw a new salt, after the releases have changed."""
    values = {"challenger_weight": 0.0, "shadow_share": 0.0, "salt": secrets.token_hex(8)}
    connection.execute(_CHANGE_ROUTING, values)
