"""Swap the champion under load: no request fails or gets a wrong answer. Give the challenger its share of the traffic.

load → warm up → check its answers → release table (gateways follow it) → drain → unload → registry → park.
Every step checks what is done already: the next call completes a swap that was killed anywhere.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from filelock import FileLock

from pipeline.params import Params
from serving.processes import Announce
from serving.release.live.folders import park, unpark, verified
from serving.release.live.models import load_and_check, loaded_versions, quiet_s, unload_unused
from serving.release.publish import sign_released
from serving.release.release_table import (
    UNIQUE_ROLES,
    CheckLease,
    Record,
    Role,
    find_release,
    promote,
    refuse_unpublished,
    roles,
    versions,
)
from serving.release.routing import Routes, read_routes, set_routing
from serving.triton.client import is_alive, server_settings
from state.database import open_state


class Swapped(NamedTuple):
    """The result of a swap."""

    version: int
    previous: int | None  # champion until then
    was_served: bool  # a Triton was running and has it loaded now


def no_lease(_connection: sa.Connection) -> None:
    """Raise nothing: a person who changes what serves has no lease to lose."""


def no_record(_connection: sa.Connection) -> None:
    """Write nothing: a person who changes what serves keeps no record of their own."""


def swap(
    version: int,
    params: Params,
    home: Path,
    announce: Announce,
    check_lease: CheckLease = no_lease,
    record: Record = no_record,
) -> Swapped:
    """Make a published version champion; raises `InputError`, `RefusedError` (golden answers) or `ToolError` (Triton).

    `check_lease` raises when the caller has lost its lease: first of all, and again in the transaction that promotes. `record` is
    called in that transaction, at every call. The previous champion stays loaded for `release.hold_s`.
    """
    serve = server_settings(params.serve)
    with FileLock(home / "publish.lock"), open_state(home) as engine:
        with engine.begin() as connection:
            check_lease(connection)
            previous = _champion_before(connection, version)
            in_use = read_routes(connection).served
            release = find_release(connection, version=version)
        if release and sign_released(unpark(home, version), release, home):
            announce(f"version {version} is signed now: its content is what was released")
        served = is_alive(serve)
        if served:
            load_and_check(serve, home, version, announce, in_use=version in in_use)
        else:
            verified(home, version)
        with engine.begin() as connection:
            check_lease(connection)
            promote(connection, version, hold_until(params))
            record(connection)
            version_by_role = roles(connection)
        announce(f"version {version} is champion; gateways follow within {params.gateway.routing_poll_ms} ms")
        if served:
            unload_unused(serve, home, lambda: loaded_versions(engine), quiet_s(params), announce)
        set_aliases(params, home, version_by_role)
        park(home, set(version_by_role.values()))
    return Swapped(version, previous, served)


def route(
    params: Params,
    home: Path,
    *,
    challenger_weight: float,
    shadow_share: float,
    announce: Announce,
    check_lease: CheckLease = no_lease,
    record: Record = no_record,
) -> Routes:
    """Set the challenger's shares. It is loaded and checked before it gets traffic, and unloaded when it gets none.

    `check_lease` and `record` are called in the transaction that sets the shares, `record` at every call.
    """
    serve = server_settings(params.serve)
    with FileLock(home / "publish.lock"), open_state(home) as engine:
        with engine.begin() as connection:
            check_lease(connection)
            routes = read_routes(connection)
        served = is_alive(serve)
        if served and routes.challenger and (challenger_weight or shadow_share):
            load_and_check(serve, home, routes.challenger, announce, in_use=routes.challenger in routes.served)
        try:
            with engine.begin() as connection:
                check_lease(connection)
                routes = set_routing(connection, challenger_weight=challenger_weight, shadow_share=shadow_share)
                record(connection)
        finally:  # refused shares change nothing: unload what was loaded for them
            if served:
                unload_unused(serve, home, lambda: loaded_versions(engine), quiet_s(params), announce)
    return routes


def set_aliases(params: Params, home: Path, version_by_role: Mapping[Role, int]) -> None:
    """Bring the registry's aliases in line with the release table."""
    from pipeline.tracking import registry as model_registry  # imports MLflow, which takes seconds: refusals do without

    with model_registry.registry(home):
        for role in UNIQUE_ROLES:
            model_registry.set_alias(params.publish.name, role, version_by_role.get(role))


def hold_until(params: Params) -> float | None:
    """Return until when the champion before a swap stays loaded; None when it does not."""
    return time.time() + params.release.hold_s if params.release.hold_s else None


def _champion_before(connection: sa.Connection, version: int) -> int | None:
    """Return the current champion; raises `InputError` when the version to promote was never published."""
    refuse_unpublished(version, versions(connection))
    return roles(connection).get("champion")
