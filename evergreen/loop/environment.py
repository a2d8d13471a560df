"""Where the loop turns: a clone of HEAD, a home of state beside it, ports of its own, and clocks that go as fast as the traffic.

Nothing of it touches the clone that it is started from, nor its home. What a retrain makes is made from HEAD and HEAD's own
params; only what runs around it (ports, and how often somebody looks) is set here.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from monitoring.retrain.run_local import RunLocal
from pipeline.errors import InputError, ToolError
from pipeline.params import Params, load_params
from serving.processes.supervisor import Child, Program
from serving.triton.server import with_free_ports

PACKAGE, LOCK, TOOLS = Path("artifacts/package"), Path("dvc.lock"), Path(".tools")
OTHERS = ("EVERGREEN_", "MLFLOW_", "OTEL_", "GIT_")  # variables that lead to somebody's state
SERVE_ENDS_WITHIN_S = 60.0
# Four weeks of messages pass in minutes, so whoever looks every few seconds or waits a minute does so as much sooner.
# No threshold, no promise of false alarms and nothing of training or gate is among these.
QUICK = {
    "alerts": {"scrape_s": 2, "evaluate_s": 2, "group_wait_s": 1, "group_interval_s": 5},
    "monitor": {"poll_s": 2},
    "log": {"flush_s": 1},
    "retrain": {"poll_s": 0.5, "settle_s": 10},
}


class Place(NamedTuple):
    """`params` are those of what runs; a retrain takes HEAD's."""

    source: Path  # where the loop was started
    clone: Path
    home: Path
    params: Params

    @property
    def gateway(self) -> str:
        """Its URL."""
        return f"http://{self.params.gateway.host}:{self.params.gateway.port}"


def lay_out(source: Path, scratch: Path) -> Place:
    """Clone HEAD, write params, publish the packaged model as version 1; raises `InputError` when nothing was packaged yet."""
    for needed in (PACKAGE / "manifest.json", LOCK):
        if not (source / needed).exists():
            raise InputError(str(source / needed), "there is no packaged model to begin with", "run first: make repro")
    clone, home = scratch / "clone", scratch / "live"
    _must(["git", "clone", "--quiet", "--local", str(source), str(clone)], source)
    for name, target in ((".venv", Path(sys.prefix)), (TOOLS, source / TOOLS)):
        (clone / name).symlink_to(target)
    params = with_own_ports(quick(load_params(clone / "params.yaml")))
    values = json.loads(params.model_dump_json())
    (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    home.mkdir()
    return Place(source, clone, home, params)


def quick(params: Params) -> Params:
    """The same with the clocks of `QUICK`."""
    return params.model_copy(update={name: getattr(params, name).model_copy(update=values) for name, values in QUICK.items()})


def with_own_ports(params: Params) -> Params:
    """The same on ports that nobody listens on now."""
    names = [name for name in type(params.alerts).model_fields if name.endswith("_port")]
    own, *rest = _free(params.alerts.host, len(names) + 1)
    return params.model_copy(
        update={
            "serve": with_free_ports(params.serve),
            "gateway": params.gateway.model_copy(update={"port": own}),
            "alerts": params.alerts.model_copy(update=dict(zip(names, rest, strict=True))),
        }
    )


def enter(place: Place) -> None:
    """From here on this process and all that it starts live in this home, and nobody else's."""
    for name in [name for name in os.environ if name.startswith(OTHERS)]:
        del os.environ[name]
    os.environ["EVERGREEN_HOME"] = str(place.home)


def publish_first(place: Place) -> None:
    """The packaged model of the clone that this was started from becomes version 1, champion."""
    _must([sys.executable, "-m", "evergreen.cli", "publish", "--first"], place.source)


@contextmanager
def running(place: Place) -> Iterator[None]:
    """What `make serve` and `make watch` start, ready; all of it ended, and a retrain that runs too, when the block ends."""
    params = place.params
    watch = Program(
        "watch",
        [sys.executable, "-m", "monitoring.local.watch"],
        params.alerts.host,
        params.alerts.monitor_port,
        "/metrics",
        place.home / "watch.log",
        place.clone,
    )
    serve = Program(
        "serve",
        [sys.executable, "-m", "evergreen.cli", "serve"],
        params.gateway.host,
        params.gateway.port,
        "/readyz",
        place.home / "serve.log",
        place.clone,
        ends_within_s=SERVE_ENDS_WITHIN_S,
    )
    children = [Child(program) for program in (watch, serve)]
    with ExitStack() as stack:
        stack.callback(RunLocal(place.clone, place.home, params.retrain).sweep, None)
        for child in children:
            stack.callback(child.end)
        children[0].start()  # while the version is published
        publish_first(place)
        children[1].start()
        for child in children:
            child.wait_ready()
        yield


def left_over(place: Place) -> list[int]:
    """Processes that still live in this home."""
    mark = f"EVERGREEN_HOME={place.home}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _free(host: str, count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]


def _must(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-1000:]
        raise ToolError(" ".join(command[:4]), f"it ended with {done.returncode}: {words}", "see that it works in the clone")
