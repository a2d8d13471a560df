"""Bring a Triton in line with the release table: what a swap or a restart left to do, and the end of a hold."""

import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import EvergreenError
from pipeline.params import Params
from serving.processes import Announce
from serving.release.live.models import load_and_check, load_companions, loaded_versions, quiet_s, unload_unused
from serving.release.release_table import end_hold, has_releases
from serving.release.routing import read_routes, set_routing
from serving.triton.client import is_alive, server_settings
from state.database import open_state, read_state

HOLD_POLL_S = 2.0  # between two looks whether a hold is over
FAILED_PAUSE_S = 30.0


def catch_up(params: Params, home: Path, announce: Announce, *, timeout_s: float) -> None:
    """Bring a server that has just started in line with the release table: a swap may have changed it meanwhile.

    A challenger that does not load, or whose answers differ from the offline ones, loses its share; a previous champion that does
    not load is announced. Raises what `load_and_check` raises for the champion, and filelock's `Timeout` while a swap is running.
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
        if (held := routes.held(time.time())) is not None:
            try:
                load_and_check(serve, home, held, announce, in_use=False)
            except EvergreenError as error:
                announce(f"the previous champion, version {held}, is not ready for a roll-back: {error}")


def unload_expired(params: Params, home: Path, announce: Announce) -> bool:
    """Unload the previous champion once its hold is over; return whether it was. While a swap runs, the next call does it."""
    with read_state(home) as reader:
        until = read_routes(reader).keep_previous_until if reader is not None and has_releases(reader) else None
    serve = server_settings(params.serve)
    if until is None or time.time() < until or not is_alive(serve):
        return False
    with suppress(Timeout), FileLock(home / "publish.lock", timeout=0), open_state(home) as engine:
        unload_unused(serve, home, lambda: loaded_versions(engine), quiet_s(params), announce)
        with engine.begin() as connection:
            end_hold(connection, until)
        return True
    return False


def unload_when_due(params: Params, home: Path, announce: Announce, stop: threading.Event) -> None:
    """Unload what is no longer held, until `stop`; a failure is announced, and repeated after a pause."""
    pause_s = HOLD_POLL_S
    while not stop.wait(pause_s):
        try:
            unload_expired(params, home, announce)
            pause_s = HOLD_POLL_S
        except Exception as error:
            announce(f"nothing is unloaded: {error}")
            pause_s = FAILED_PAUSE_S
