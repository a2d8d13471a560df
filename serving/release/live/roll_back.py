"""Roll a version back: one transaction takes it out of the traffic; registry and Triton follow, and cannot stop it.

release table and routing (gateways follow them) → registry → drain → unload → park. The next call completes a roll-back that was
killed anywhere, or that a registry or a Triton which was away has left unfinished.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import sqlalchemy as sa
from filelock import FileLock, Timeout

from pipeline.errors import InputError
from pipeline.params import Params, Serve
from serving.processes import Announce
from serving.release.live.folders import park
from serving.release.live.models import load_and_check, loaded_versions, quiet_s, unload_unused
from serving.release.live.swap import no_lease, no_record, set_aliases
from serving.release.manifest import model_name
from serving.release.release_table import (
    OVER,
    CheckLease,
    Record,
    Role,
    end_hold,
    refuse_unpublished,
    roles,
    take_back,
    versions,
)
from serving.release.routing import read_routes
from serving.triton.client import is_alive, is_ready, server_settings
from state.database import open_state

PROBE_S = 5.0  # Triton may hang: it is asked for no longer
LOCK_S = 30.0  # for a publish or a swap that runs, after the traffic has moved
SURELY_HELD_S = 5.0  # that the hold must last still: nobody unloads the previous champion meanwhile
Leftover = Literal["aliases", "models"]


class RolledBack(NamedTuple):
    """The result of a roll-back."""

    version: int
    was: Role  # its role before; "retired": an earlier call has rolled it back
    champion: int | None  # it answers now
    left: tuple[Leftover, ...]  # what could not be done now, and the next call does


def roll_back(
    version: int,
    params: Params,
    home: Path,
    announce: Announce,
    check_lease: CheckLease = no_lease,
    record: Record = no_record,
) -> RolledBack:
    """Retire a version: the challenger, or the champion, whom the previous one follows.

    `check_lease` raises when the caller has lost its lease; it is called first in the transaction, and `record` last in it, at
    every call. Raises `InputError` without a previous champion and for a version that was never published, and as
    `load_and_check` does for a previous champion that has to be loaded first.
    """
    serve = server_settings(params.serve)
    with open_state(home) as engine:

        def take() -> tuple[Role, Mapping[Role, int]]:
            with engine.begin() as connection:
                check_lease(connection)
                was = take_back(connection, version)
                record(connection)
                return was, roles(connection)

        with engine.begin() as connection:
            check_lease(connection)
            heir, is_safe = _heir(connection, version)
        if heir is None or (is_safe and is_ready(serve, [model_name(heir)], within_s=PROBE_S)):
            was, version_by_role = take()
        else:
            with FileLock(home / "publish.lock"):  # nobody unloads the heir between its check and the transaction
                if is_alive(serve, within_s=PROBE_S):
                    load_and_check(serve, home, heir, announce, in_use=False)
                was, version_by_role = take()
        champion = version_by_role.get("champion")
        announce(f"version {champion} answers; gateways follow within {params.gateway.routing_poll_ms} ms")
        left = _clean_up(engine, serve, params, home, announce)
    return RolledBack(version, was, champion, left)


def _heir(connection: sa.Connection, version: int) -> tuple[int | None, bool]:
    """Return the version that has to answer instead, None when it does already; and whether it surely stays loaded meanwhile."""
    published, routes = versions(connection), read_routes(connection)
    refuse_unpublished(version, published)
    if routes.champion != version:
        return None, True
    if routes.previous is None:
        what = "there is no previous champion to return to"
        raise InputError(f"version {version}", what, "name a version: .venv/bin/evergreen publish N")
    return routes.previous, routes.held(time.time() + SURELY_HELD_S) is not None


def _clean_up(engine: sa.Engine, serve: Serve, params: Params, home: Path, announce: Announce) -> tuple[Leftover, ...]:
    """Bring registry, Triton and folders in line with the release table; return what is left to do."""

    def set_current_aliases() -> None:
        with engine.begin() as connection:
            version_by_role = roles(connection)
        from pipeline.tracking.registry import few_attempts

        with few_attempts():
            set_aliases(params, home, version_by_role)

    def unload_and_park() -> None:
        if is_alive(serve, within_s=PROBE_S):  # else whoever keeps Triton in line unloads
            unload_unused(serve, home, lambda: loaded_versions(engine), quiet_s(params), announce)
            with engine.begin() as connection:
                end_hold(connection, OVER)
        with engine.begin() as connection:
            in_role = set(roles(connection).values())
        park(home, in_role)

    try:
        with FileLock(home / "publish.lock", timeout=LOCK_S):
            done = {
                "aliases": _survives(set_current_aliases, "the registry's aliases are not set", announce),
                "models": _survives(unload_and_park, "nothing is unloaded", announce),
            }
    except Timeout:
        announce("a publish or a swap runs; what is left is done by the next roll-back, swap or publish")
        return "aliases", "models"
    return tuple(name for name in ("aliases", "models") if not done[name])


def _survives(act: Callable[[], None], otherwise: str, announce: Announce) -> bool:
    """Act; announce what goes wrong, and return whether nothing did: the traffic has moved, and must not seem not to have."""
    try:
        act()
    except Exception as error:
        announce(f"{otherwise}: {error}")
        return False
    return True
