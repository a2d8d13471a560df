"""The loop's environment: a clone of HEAD, a scratch home of state, free ports, and intervals as short as the traffic is fast.

Nothing touches the clone that the loop is started from, or its home. A retrain uses HEAD and HEAD's params; only what runs around
it (ports and polling intervals) is set here.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml

from evergreen.loop.annotators import ANNOTATORS
from monitoring.retrain.run_local import RunLocal
from pipeline.errors import InputError, ToolError
from pipeline.home import DVC_LOCK, PACKAGE, git, keep_private
from pipeline.lifetime import processes_with, run_child
from pipeline.params import Params, load_params
from serving.access.tokens import Scope, add_token
from serving.processes.ports import free_ports
from serving.processes.supervisor import Child, Program
from serving.release.inputs import WHAT_TO_DO, locked_inputs, other_inputs
from serving.triton.server import with_free_ports

TOOLS = Path(".tools")
HOME = "EVERGREEN_HOME"
SHOP = "shop"  # name of the customers
CLEARED_PREFIXES = ("EVERGREEN_", "MLFLOW_", "OTEL_", "GIT_")  # of variables that could lead to another home, store or collector
ENDS_WITHIN_S = 60.0  # the gateway finishes its requests, the controller ends its retrain
# Four weeks of messages pass in minutes, so polling intervals and waits of a minute are shortened.
# No threshold, no promise about false alarms and no setting of training or gate is among these.
FAST_INTERVALS = {
    "alerts": {"scrape_s": 2, "evaluate_s": 2, "group_wait_s": 1, "group_interval_s": 5},
    "monitor": {"poll_s": 2},
    "log": {"flush_s": 1},
    "retrain": {"poll_s": 0.5, "settle_s": 30, "label_wait_s": 120},
}
NOT_GRADUAL = {"release": {"how": "at_once"}}  # the scenario has no traffic left for a shadow and four steps


class Environment(NamedTuple):
    """Folders and params of the running processes; a retrain uses HEAD's params."""

    source: Path  # where the loop was started
    clone: Path
    home: Path
    params: Params
    tokens: dict[str, str]  # by name of the caller

    @property
    def gateway_url(self) -> str:
        return f"http://{self.params.gateway.host}:{self.params.gateway.port}"

    @property
    def console_url(self) -> str:
        return f"http://{self.params.alerts.host}:{self.params.alerts.console_port}"


def create_environment(source: Path, scratch: Path) -> Environment:
    """Clone HEAD into the scratch folder and write its params; raises `InputError` when no model is packaged yet."""
    for needed in (PACKAGE / "manifest.json", DVC_LOCK):
        if not (source / needed).exists():
            raise InputError(str(source / needed), "there is no packaged model to start with", "run first: make repro")
    require_same_inputs(source)
    clone, home = scratch / "clone", scratch / "live"
    _run(["git", "clone", "--quiet", "--local", str(source), str(clone)], source)
    for name, target in ((".venv", Path(sys.prefix)), (TOOLS, source / TOOLS)):
        (clone / name).symlink_to(target)
    params = on_free_ports(params_of_loop(load_params(clone / "params.yaml")))
    values = json.loads(params.model_dump_json())
    (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    keep_private(home)
    return Environment(source, clone, home, params, make_tokens(home))


def make_tokens(home: Path) -> dict[str, str]:
    """Let the shop ask for predictions and each annotator give labels."""
    scopes: dict[str, Scope] = {SHOP: "predict", **dict.fromkeys(ANNOTATORS, "label")}
    path = home / "tokens.json"
    return {name: add_token(path, name, [scope], datetime.now(UTC)) for name, scope in scopes.items()}


def require_same_inputs(source: Path) -> None:
    """Raise `InputError` when a retrain from HEAD would be refused, because the packaged model was made from something else."""
    origin = json.loads((source / PACKAGE / "1" / "model.json").read_text(encoding="utf-8"))["origin"]
    lineage = {"version": 1, **origin, "inputs": locked_inputs(source / DVC_LOCK)._asdict()}
    if difference := other_inputs(lineage, git("rev-parse", "HEAD", folder=source), source):
        raise InputError("make loop", f"the retrain would be refused: {difference}", WHAT_TO_DO)


def params_of_loop(params: Params) -> Params:
    """Return the params with `FAST_INTERVALS` and `NOT_GRADUAL`."""
    changes = FAST_INTERVALS | NOT_GRADUAL
    sections = {name: getattr(params, name).model_copy(update=values) for name, values in changes.items()}
    return params.model_copy(update=sections)


def on_free_ports(params: Params) -> Params:
    """Return the params with every port replaced by a free one."""
    names = [name for name in type(params.alerts).model_fields if name.endswith("_port")]
    gateway, *others = free_ports(params.alerts.host, len(names) + 1)
    return params.model_copy(
        update={
            "serve": with_free_ports(params.serve),
            "gateway": params.gateway.model_copy(update={"port": gateway}),
            "alerts": params.alerts.model_copy(update=dict(zip(names, others, strict=True))),
        }
    )


def enter(environment: Environment) -> None:
    """Point this process and its future children at the scratch home, and at no other store."""
    for name in [name for name in os.environ if name.startswith(CLEARED_PREFIXES)]:
        del os.environ[name]
    os.environ[HOME] = str(environment.home)
    os.environ["EVERGREEN_TOKEN"] = environment.tokens[SHOP]


def make_round(environment: Environment) -> None:
    """Choose the texts that people should label, as the flywheel's process does once a week."""
    _run([sys.executable, "-m", "monitoring.flywheel", "--once"], environment.clone)


def publish_first(environment: Environment) -> None:
    """Publish the packaged model of the source clone as version 1, the champion."""
    _run([sys.executable, "-m", "evergreen.cli", "publish", "--first"], environment.source)


@contextmanager
def running(environment: Environment) -> Iterator[None]:
    """Yield once `make serve` and `make watch` are ready; end both, and a running retrain, when the block ends."""
    clone, home, params = environment.clone, environment.home, environment.params
    python, alerts, gateway = [sys.executable, "-m"], params.alerts, params.gateway
    command, log = [*python, "monitoring.local.watch", "--retrain"], home / "watch.log"
    watch = Child(
        Program("watch", command, alerts.host, alerts.monitor_port, "/metrics", log, clone, ends_within_s=ENDS_WITHIN_S)
    )
    serve = Child(
        Program(
            "serve",
            [*python, "evergreen.cli", "serve"],
            gateway.host,
            gateway.port,
            "/readyz",
            home / "serve.log",
            clone,
            ends_within_s=ENDS_WITHIN_S,
        )
    )
    with ExitStack() as stack:
        stack.callback(RunLocal(clone, home, params.retrain).sweep, None)
        stack.callback(watch.end)
        stack.callback(serve.end)
        watch.start()  # while the version is published
        publish_first(environment)
        serve.start()
        for child in (watch, serve):
            child.wait_ready()
        yield


def leftover_processes(environment: Environment) -> list[int]:
    """Return the ids of other processes that still use the scratch home."""
    return [pid for pid in processes_with(HOME, str(environment.home)) if pid != os.getpid()]


def _run(command: list[str], folder: Path) -> None:
    done = run_child(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[-1000:]
        raise ToolError(" ".join(command[:4]), f"it ended with {done.returncode}: {output}", f"make it work in {folder}")
