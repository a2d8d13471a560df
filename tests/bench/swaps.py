"""Swaps versions in a process of its own, as `evergreen publish N` does, but without starting Python each time.

`{"version": 2}` → `{"took_s": …}` or `{"error": …}`; runs in a folder whose params.yaml names the servers.
"""

import json
import sys
import time

from pipeline.errors import EvergreenError, run_stage
from pipeline.home import find_home
from pipeline.params import load_params
from serving.swap import swap


def main() -> None:
    params, home = load_params(), find_home()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        begun = time.monotonic()
        try:
            swap(json.loads(line)["version"], params, home, lambda _line: None)
            said: dict[str, float | str] = {"began_s": begun, "took_s": time.monotonic() - begun}
        except EvergreenError as error:
            said = {"error": str(error)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    run_stage(main)
