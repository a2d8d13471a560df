"""Swap the champion under load: no request fails or gets a wrong answer.

load → warm up → compare golden answers with the offline ones → release table (gateways follow it) → drain → unload → park.
Every step checks what is done already: the next call completes a swap that was killed anywhere.
"""

import re
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from filelock import FileLock

from pipeline.errors import EvergreenError, InputError, RefusedError
from pipeline.params import Params, Serve
from pipeline.session.golden_answers import GoldenAnswers, golden_differences, read_golden
from serving.processes import Announce
from serving.release.manifest import MANIFEST, model_name, repository
from serving.release.publish import sign_released
from serving.release.release_table import UNIQUE_ROLES, CheckLease, find_release, promote, refuse_unpublished, roles, versions
from serving.release.routing import Routes, read_routes, set_routing
from serving.release.signature import read_signed
from serving.release.signing_keys import trusted_folder, trusted_keys
from serving.triton.client import (
    BATCH_TEXTS,
    TritonError,
    drain,
    infer_grpc,
    is_alive,
    is_ready,
    key_file,
    load,
    ready_models,
    server_settings,
    unload,
)
from serving.triton.server import close_shared_memory
from state.database import open_state

DRAIN_TIMEOUT_S = 30.0


class Swapped(NamedTuple):
    """The result of a swap."""

    version: int
    previous: int | None  # champion until then
    was_served: bool  # a Triton was running and has it loaded now


def swap(
    version: int, params: Params, home: Path, announce: Announce, check_lease: CheckLease = lambda _connection: None
) -> Swapped:
    """Make a published version champion; raises `InputError`, `RefusedError` (golden answers) or `ToolError` (Triton).

    `check_lease` raises when the caller has lost its lease: first of all, and again in the transaction that promotes.
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
            promote(connection, version)
            wanted, version_by_role = read_routes(connection).served, roles(connection)
        announce(f"version {version} is champion; gateways follow within {params.gateway.routing_poll_ms} ms")
        if served:
            unload_unused(serve, home, wanted, 2 * params.gateway.routing_poll_ms / 1000, announce)
        from pipeline.tracking import registry as model_registry  # imports MLflow, which takes seconds: refusals do without

        with model_registry.registry(home):
            for role in UNIQUE_ROLES:
                model_registry.set_alias(params.publish.name, role, version_by_role.get(role))
        park(home, set(version_by_role.values()))
    return Swapped(version, previous, served)


def route(params: Params, home: Path, *, challenger_weight: float, shadow_share: float, announce: Announce) -> Routes:
    """Set the challenger's shares. It is loaded and checked before it gets traffic, and unloaded when it gets none."""
    serve = server_settings(params.serve)
    with FileLock(home / "publish.lock"), open_state(home) as engine:
        with engine.begin() as connection:
            routes = read_routes(connection)
        served = is_alive(serve)
        if served and routes.challenger and (challenger_weight or shadow_share):
            load_and_check(serve, home, routes.challenger, announce, in_use=routes.challenger in routes.served)
        try:
            with engine.begin() as connection:
                routes = set_routing(connection, challenger_weight=challenger_weight, shadow_share=shadow_share)
        finally:  # refused shares change nothing: unload what was loaded for them
            if served:
                unload_unused(serve, home, routes.served, 2 * params.gateway.routing_poll_ms / 1000, announce)
    return routes


def catch_up(params: Params, home: Path, announce: Announce, *, timeout_s: float) -> None:
    """Bring a server that has just started in line with the release table: a swap may have changed it meanwhile.

    A challenger that does not load, or whose answers differ from the offline ones, loses its share. Raises what `load_and_check`
    raises for the champion, and filelock's `Timeout` while a swap is running.
    """
    serve = server_settings(params.serve)
    with FileLock(home / "publish.lock", timeout=timeout_s), open_state(home) as engine:
        with engine.begin() as connection:
            routes = read_routes(connection)
        if routes.champion:
            load_and_check(serve, home, routes.champion, announce, in_use=True)
            load_companions(serve, home, routes.champion, announce)
        for version in routes.served - {routes.champion}:
            try:
                load_and_check(serve, home, version, announce, in_use=False)
            except EvergreenError as error:
                with engine.begin() as connection:
                    set_routing(connection, challenger_weight=0.0, shadow_share=0.0)
                announce(f"the challenger, version {version}, gets no more traffic: {error}")


def load_and_check(serve: Serve, home: Path, version: int, announce: Announce, *, in_use: bool) -> None:
    """Load a version and compare its golden answers with the offline ones; raises `RefusedError` when they differ.

    A version that fails is unloaded again unless it is `in_use`: then a doubtful answer may be better than none.
    """
    model, folder = model_name(version), verified(home, version)
    golden, key = _golden(folder), _key(home, serve)
    if not is_ready(serve, [model]):
        load(serve, model, key)
        announce(f"{model} is loaded and warm")
    close_shared_memory(home, serve)
    if problem := _golden_problem(serve, model, golden):
        if not in_use:
            unload(serve, model, key)
        raise RefusedError(
            model,
            problem,
            "the old version still serves; make the package again on a machine like this one: .venv/bin/dvc repro -f package",
        )
    announce(f"{model}: {len(golden.texts)} golden answers equal the offline ones")


def load_companions(serve: Serve, home: Path, version: int, announce: Announce) -> None:
    """Load the models that `serving.release.frameworks` packaged for this version; one that does not load is announced."""
    for model in (f"{model_name(version)}-torch", f"control-{version}"):
        if (repository(home) / model / MANIFEST).is_file() and not is_ready(serve, [model]):
            try:
                read_signed(repository(home) / model, trusted_keys(trusted_folder(home)))
                load(serve, model, _key(home, serve))
                close_shared_memory(home, serve)
                announce(f"{model} is loaded too")
            except EvergreenError as error:
                announce(f"{model} is not served: {error}")


def unload_unused(serve: Serve, home: Path, wanted: set[int], quiet_s: float, announce: Announce) -> None:
    """Unload every version that is not wanted, after `quiet_s` without a request for it.

    A gateway that has not read the new routes still asks the old version; silence for two of its polls means that all have.
    """
    key = _key(home, serve)
    for model in ready_models(serve, key):
        match = re.fullmatch(r"(?:intent|control)-(\d+)(?:-torch)?", model)
        if match is None or int(match[1]) in wanted:
            continue
        if not drain(serve, model, quiet_s, DRAIN_TIMEOUT_S):
            announce(
                f"{model} still gets requests after {DRAIN_TIMEOUT_S:.0f} s, from a client that names it; unloading it anyway"
            )
        unload(serve, model, key)
        announce(f"{model} is unloaded")


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


def _golden_problem(serve: Serve, model: str, golden: GoldenAnswers) -> str | None:
    """Describe how the server's golden answers differ from the offline ones; None when they do not."""
    nonce = secrets.token_hex(8)  # in each call, so that Triton's cache cannot answer from an earlier load of this version
    size = BATCH_TEXTS - 1
    try:
        parts = [infer_grpc(serve, model, [nonce, *golden.texts[at : at + size]]) for at in range(0, len(golden.texts), size)]
    except TritonError as error:
        return f"it did not answer the golden texts: {error}"
    labels = [label for part in parts for label in part.labels[1:]]
    differences = golden_differences(golden, labels, np.concatenate([part.probabilities[1:] for part in parts]))
    if not differences:
        return None
    return f"{len(differences)} of {len(golden.texts)} golden answers differ from the offline ones: {differences[0]}"


def _golden(folder: Path) -> GoldenAnswers:
    try:
        return read_golden(folder)
    except (OSError, ValueError) as error:
        what = f"its package has no golden answers: {error}"
        raise RefusedError(str(folder), what, "make and publish a new package: make repro") from None


def _champion_before(connection: sa.Connection, version: int) -> int | None:
    """Return the current champion; raises `InputError` when the version to promote was never published."""
    refuse_unpublished(version, versions(connection))
    return roles(connection).get("champion")


def _key(home: Path, serve: Serve) -> str:
    path = key_file(home, serve)
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        what = "a Triton answers, but its admin key is missing"
        raise InputError(str(path), what, "start Triton with make serve, or set EVERGREEN_TRITON_KEY_FILE") from None


def _parked(home: Path, version: int) -> Path:
    return home / "parked" / model_name(version)
