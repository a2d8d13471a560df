"""Swaps to one version after the other until a file called `stop` stands in the folder; one JSON line a swap.

`{"version", "began_s", "ended_s", "steps": {name: [since_s, until_s]}}`, or with "error"; times of the monotonic clock.
"""

import json
import sys
import time
from itertools import cycle
from pathlib import Path

from pipeline.errors import EvergreenError, run_stage
from pipeline.home import find_home
from pipeline.params import load_params
from serving.swap import swap

STEPS = {"is loaded": "load", "equal the offline ones": "check", "is champion": "move", "is unloaded": "drain"}


def main() -> None:
    params, home, pause_s = load_params(), find_home(), float(sys.argv[1])
    print(json.dumps({"ready": True}), flush=True)
    for version in cycle(int(number) for number in sys.argv[2:]):
        began_s = since_s = time.monotonic()
        steps: dict[str, tuple[float, float]] = {}

        def note(line: str) -> None:
            nonlocal since_s
            name = next((name for mark, name in STEPS.items() if mark in line), None)
            if name:
                now_s = time.monotonic()
                steps[name] = (since_s, now_s)  # noqa: B023 (called before the next turn)
                since_s = now_s

        said: dict[str, object] = {"version": version, "began_s": began_s}
        try:
            swap(version, params, home, note)
        except EvergreenError as error:
            said["error"] = str(error)
        ended_s = time.monotonic()
        steps["registry"] = (since_s, ended_s)
        print(json.dumps({**said, "ended_s": ended_s, "steps": steps}), flush=True)
        while time.monotonic() < ended_s + pause_s and not Path("stop").exists():
            time.sleep(0.05)
        if Path("stop").exists():
            return


if __name__ == "__main__":
    run_stage(main)
