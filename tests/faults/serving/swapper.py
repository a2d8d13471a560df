"""Swap versions in a separate process, as `evergreen publish N` does, without starting Python for each swap.

`{"version": 2}` → `{"version", "began_s", "ended_s", "steps": {name: [since_s, until_s]}}`, or with "error"; times are of the
monotonic clock. It runs in a folder whose params.yaml names the servers.
"""

import json
import sys
import time
from pathlib import Path

from pipeline.errors import EvergreenError, run_stage
from pipeline.home import find_home
from pipeline.params import Params, load_params
from serving.release.live.swap import swap

STEPS = {"is loaded": "load", "equal the offline ones": "check", "is champion": "move", "is unloaded": "drain"}


def timed_swap(version: int, params: Params, home: Path) -> dict[str, object]:
    """Swap, and return the times of its steps."""
    began_s = since_s = time.monotonic()
    steps: dict[str, tuple[float, float]] = {}

    def note_step(line: str) -> None:
        nonlocal since_s
        name = next((name for mark, name in STEPS.items() if mark in line), None)
        if name:
            now_s = time.monotonic()
            steps[name], since_s = (since_s, now_s), now_s

    result: dict[str, object] = {"version": version, "began_s": began_s}
    try:
        swap(version, params, home, note_step)
    except EvergreenError as error:
        result["error"] = str(error)
    ended_s = time.monotonic()
    steps["registry"] = (since_s, ended_s)
    return {**result, "ended_s": ended_s, "steps": steps}


def main() -> None:
    params, home = load_params(), find_home()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed_swap(json.loads(line)["version"], params, home)), flush=True)


if __name__ == "__main__":
    run_stage(main)
