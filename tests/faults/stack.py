"""Run a separate stack for tests and drills: `evergreen serve` on free ports, in a home with versions whose answers differ.

A version is the packaged model with another temperature: labels stay and confidences change, so that an answer shows its version.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import mlflow
import numpy as np
import psutil
import yaml
from numpy.typing import NDArray

from pipeline.data.records import write_json
from pipeline.params import Params
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.model_files import model_digest
from pipeline.runtime.sessions import open_session
from pipeline.session.golden_answers import read_golden, write_golden
from serving.processes.ports import free_port
from serving.release.manifest import LINEAGE, MANIFEST, SIGNATURE, describe_files
from serving.release.publish import publish
from serving.release.release_table import roles
from serving.triton import client as triton
from serving.triton.server import with_free_ports
from state.database import open_state
from tests.faults.child import start_module

ROOT = Path(__file__).parents[2]
FACTORS = (1.0, 2.0, 4.0)  # of the temperature, for versions 1, 2, 3: they differ even where the model is certain
PROGRAMS = {"serving.gateway": "gateway", "bin/tritonserver": "triton", "triton_python_backend_stub": "model"}
END_TIMEOUT_S = 120.0  # gateway and Triton each have less than a minute
Answer = tuple[str, float]  # label and confidence


class OfflineAnswers(NamedTuple):
    """Hold a version's offline answers to N texts."""

    labels: list[str]
    probabilities: NDArray[np.float32]  # (N, classes), in the order of the labels

    def answers(self) -> list[Answer]:
        """Return the most probable label of each text, with its probability."""
        return [(self.labels[int(row.argmax())], float(row.max())) for row in self.probabilities]


Offline = Callable[[int, Sequence[str]], OfflineAnswers]  # from a version and texts


class Installation(NamedTuple):
    """Name the folder of commands and params.yaml, and the home of state; version 1 is champion at first."""

    folder: Path
    home: Path
    params: Params
    packages: dict[int, Path]  # by version, as published

    @property
    def url(self) -> str:
        return f"http://{self.params.gateway.host}:{self.params.gateway.port}"


def lay_out(
    folder: Path, package: Path, dvc_lock: Path, params: Params, factors: Sequence[float] = FACTORS, hold_s: float = 0.0
) -> Installation:
    """Publish a version for each factor, as a user does, into a home in this folder. By default a swap unloads at once."""
    ports = with_free_ports(params.serve)
    gateway = params.gateway.model_copy(update={"port": free_port(ports.host)})
    release = params.release.model_copy(update={"hold_s": hold_s})
    changed_params = params.model_copy(update={"serve": ports, "gateway": gateway, "release": release})
    installation = Installation(folder, folder / "live", changed_params, {})
    folder.mkdir(parents=True, exist_ok=True)
    write_params(installation)
    for factor in factors:
        changed = variant(package, folder / "packages" / str(factor), factor)
        installation.packages[publish(changed, dvc_lock, params.publish.name, installation.home).release.version] = changed
    return installation


def write_params(installation: Installation) -> None:
    """Write params.yaml for the stack's processes."""
    values = json.loads(installation.params.model_dump_json())
    (installation.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def variant(package: Path, out: Path, factor: float) -> Path:
    """Make the package with another temperature, matching golden answers and digests."""
    shutil.copytree(package, out, ignore=shutil.ignore_patterns(LINEAGE, MANIFEST, SIGNATURE))
    old_digest = model_digest(out / "1")
    card = json.loads((out / "1" / "model.json").read_text(encoding="utf-8"))
    card["temperature"] *= factor
    (out / "1" / "model.json").write_text(json.dumps(card), encoding="utf-8")
    config = (out / "config.pbtxt").read_text(encoding="utf-8")
    (out / "config.pbtxt").write_text(config.replace(old_digest, model_digest(out / "1")), encoding="utf-8")
    golden = read_golden(package)
    predictions = classifier(out, golden.session).predict(golden.texts)
    write_golden(golden._replace(labels=predictions.labels, probabilities=predictions.probabilities), out)
    return with_manifest(out)


def with_manifest(package: Path) -> Path:
    """Write a manifest that matches the package's files."""
    write_json(package / MANIFEST, describe_files(package))
    return package


def classifier(package: Path, session: str) -> Classifier:
    """Open the packaged model without a server."""
    return Classifier(package / "1", session=open_session(package / "1", session, 2))


def offline(packages: Mapping[int, Path]) -> Offline:
    """Return a function that computes a version's answers to texts; each model is opened when it is first needed."""
    models: dict[int, Classifier] = {}

    def predict(version: int, texts: Sequence[str]) -> OfflineAnswers:
        if version not in models:
            models[version] = classifier(packages[version], read_golden(packages[version]).session)
        parts = [models[version].predict(texts[at : at + 256]).probabilities for at in range(0, len(texts), 256)]
        return OfflineAnswers(models[version].labels, np.concatenate(parts))

    return predict


@contextmanager
def serving(installation: Installation, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `evergreen serve` on this installation; end it with SIGTERM, and with it every process that it started."""
    process = start(installation, **variables)
    try:
        wait_until(lambda: is_ready(installation), 60, lambda: serve_log(installation))
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel then ends its children
            raise


def start(installation: Installation, **variables: str) -> subprocess.Popen[bytes]:
    """Start `evergreen serve` without waiting for it; its output goes to serve.log."""
    variables = clean_environment() | {"EVERGREEN_HOME": str(installation.home)} | variables
    return start_module("evergreen.cli", installation.folder / "serve.log", variables, "serve", is_session=True)


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of a user's state, and with the project on the path."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "MLFLOW_", "OTEL_"))}
    return variables | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def is_ready(installation: Installation) -> bool:
    """Return whether the gateway reports that it is ready."""
    try:
        with urlopen(f"http://{installation.params.gateway.host}:{installation.params.gateway.port}/readyz", timeout=2) as page:
            return bool(page.status == 200)
    except OSError:
        return False


def serve_log(installation: Installation) -> str:
    """Return the output of `evergreen serve`."""
    return (installation.folder / "serve.log").read_text(encoding="utf-8", errors="replace")


def wait_until(happens: Callable[[], bool], within_s: float, otherwise: Callable[[], str] = lambda: "") -> float:
    """Return the seconds until it happens; raise `TimeoutError` with the text of `otherwise` when it does not."""
    started = time.monotonic()
    while not happens():
        if time.monotonic() - started > within_s:
            raise TimeoutError(f"not within {within_s} s; {otherwise()}")
        time.sleep(0.02)
    return time.monotonic() - started


def programs(process: subprocess.Popen[bytes]) -> dict[str, list[psutil.Process]]:
    """Return the living children of `evergreen serve`: gateway, triton, and model (the stubs of the Python backend)."""
    running: dict[str, list[psutil.Process]] = {name: [] for name in PROGRAMS.values()}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
            alive = child.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            continue
        name = next((name for mark, name in reversed(PROGRAMS.items()) if mark in line), None)
        if name and alive:
            running[name].append(child)
    return running


def gateway_routes(installation: Installation) -> dict[str, object]:
    """Return the routes that the gateway follows."""
    with urlopen(f"http://{installation.params.gateway.host}:{installation.params.gateway.port}/v1/routes", timeout=10) as page:
        routes: dict[str, object] = json.load(page)
    return routes


def release_roles(installation: Installation) -> dict[str, int]:
    """Return the roles of the release table."""
    with open_state(installation.home) as engine, engine.begin() as connection:
        return dict(roles(connection))


def registry_roles(installation: Installation) -> dict[str, int]:
    """Return the roles of the registry."""
    client = mlflow.MlflowClient(f"sqlite:///{installation.home / 'mlflow.db'}")
    return {alias: int(version) for alias, version in client.get_registered_model("evergreen").aliases.items()}


def triton_models(installation: Installation) -> list[str]:
    """Return the models that Triton has ready."""
    key = triton.key_file(installation.home, installation.params.serve).read_text()
    return sorted(triton.ready_models(installation.params.serve, key))
