"""Keep a Triton that another program starts in line with the release table: `python -m serving.release.live.keep_loaded`.

`evergreen serve` does this for the Triton that it starts itself. A container's Triton starts without models; this process loads
the champion once signature and golden answers are right, and again after every restart of Triton. It unloads the previous
champion once that is no longer held for a roll-back.
"""

import argparse
import time
from pathlib import Path

from filelock import Timeout

from pipeline.errors import EvergreenError, run_stage
from pipeline.home import find_home
from pipeline.output.plain_text import indented, print_lines
from pipeline.params import Params, load_params
from serving.processes import Announce
from serving.release.live.catch_up import FAILED_PAUSE_S, catch_up, unload_expired
from serving.release.manifest import model_name
from serving.release.release_table import find_release
from serving.triton.client import is_alive, is_ready, server_settings
from state.database import open_state

POLL_S = 2.0


def load_missing(params: Params, home: Path, announce: Announce) -> bool:
    """Load what the release table says, unless Triton is down, has the champion, or a swap runs; return whether it was loaded.

    Raises as `catch_up` does.
    """
    serve = server_settings(params.serve)
    with open_state(home) as engine, engine.begin() as connection:
        champion = find_release(connection, role="champion")
    if champion is None or not is_alive(serve) or is_ready(serve, [model_name(champion.version)]):
        return False
    try:
        catch_up(params, home, announce, timeout_s=0)
    except Timeout:
        return False
    return True


def keep_loaded(params: Params, home: Path, announce: Announce) -> None:
    """Repeat until the process ends; a failure is announced and repeated after a pause."""
    while True:
        try:
            load_missing(params, home, announce)
            unload_expired(params, home, announce)
            time.sleep(POLL_S)
        except EvergreenError as error:
            announce(f"Triton is not in line with the release table: {error}")
            time.sleep(FAILED_PAUSE_S)


def main() -> None:
    """Run until SIGTERM."""
    argparse.ArgumentParser(prog="python -m serving.release.live.keep_loaded", description=__doc__).parse_args()
    keep_loaded(load_params(), find_home(), lambda text: print_lines(f"· {indented(text)}"))


if __name__ == "__main__":
    run_stage(main)
