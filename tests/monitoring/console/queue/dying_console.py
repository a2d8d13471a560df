"""A console that is killed when the gateway has a label, and the table of actions has not: `dying_console HOME GATEWAY_PORT`."""

import json
import os
import signal
import sys
from pathlib import Path

from monitoring.console.queue import giving
from pipeline.params import load_params
from tests.monitoring.console.queue.queue_client import Person, with_controls
from tests.monitoring.console.running_console import running_console


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    home, port = Path(sys.argv[1]), int(sys.argv[2])
    params = with_controls(load_params(), 0)
    params = params.model_copy(update={"gateway": params.gateway.model_copy(update={"port": port})})
    giving.store_actions = die  # type: ignore[assignment]
    with running_console(params, home, now=None) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=json.dumps("refund"))
