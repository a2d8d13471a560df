"""A stack of its own for tests and drills: `evergreen serve` on free ports, in a home with versions whose answers differ.

A version is the packaged model with another temperature: labels stay, confidences move, so that an answer shows who gave it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
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
from pipeline.runtime.classifier import Classifier, model_digest
from pipeline.runtime.sessions import open_session
from pipeline.session.golden_answers import read_golden, write_golden
from serving.processes.lifetime import end_with_parent
from serving.processes.ports import free_port
from serving.release.manifest import LINEAGE, MANIFEST, SIGNATURE, describe_files
from serving.release.publish import publish
from serving.release.release_table import roles
from serving.triton import client as triton
from serving.triton.server import with_free_ports
from state.database import open_state

ROOT = Path(__file__).parents[2]
FACTORS = (1.0, 2.0, 4.0)  # of the temperature, for versions 1, 2, 3: apart even where the model is sure
PROGRAMS = {"serving.gateway": "gateway", "bin/tritonserver": "triton", "triton_python_backend_stub": "model"}
PATIENCE_S = 120.0  # with the end of a stack: a gateway and a Triton each have less than a minute
Answer = tuple[str, float]  # label and confidence


class Right(NamedTuple):
    """What a version says offline of N texts."""

    labels: list[str]
    probabilities: NDArray[np.float32]  # (N, classes), in the order of the labels

    def answers(self) -> list[Answer]:
        """The most probable label of each text."""
        return [(self.labels[int(own.argmax())], float(own.max())) for own in self.probabilities]


Offline = Callable[[int, Sequence[str]], Right]  # of a version and texts


class Installation(NamedTuple):
    """Where commands run (`folder` holds params.yaml) and where the state lives; version 1 is champion at first."""

    folder: Path
    home: Path
    params: Params
    packages: dict[int, Path]  # by version, as published

    @property
    def url(self) -> str:
        return f"http://{self.params.gateway.host}:{self.params.gateway.port}"


def lay_out(folder: Path, package: Path, dvc_lock: Path, params: Params, factors: Sequence[float] = FACTORS) -> Installation:
    """Publish one version a factor, as a person would, into a home in this folder."""
    ports = with_free_ports(params.serve)
    gateway = params.gateway.model_copy(update={"port": free_port(ports.host)})
    installation = Installation(folder, folder / "live", params.model_copy(update={"serve": ports, "gateway": gateway}), {})
    folder.mkdir(parents=True, exist_ok=True)
    write_params(installation)
    for factor in factors:
        other = variant(package, folder / "packages" / str(factor), factor)
        installation.packages[publish(other, dvc_lock, params.publish.name, installation.home).release.version] = other
    return installation


def write_params(installation: Installation) -> None:
    """params.yaml, where the stack's processes read it."""
    values = json.loads(installation.params.model_dump_json())
    (installation.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def variant(package: Path, out: Path, factor: float) -> Path:
    """The package with another temperature: golden answers and digests follow."""
    shutil.copytree(package, out, ignore=shutil.ignore_patterns(LINEAGE, MANIFEST, SIGNATURE))
    before = model_digest(out / "1")
    card = json.loads((out / "1" / "model.json").read_text(encoding="utf-8"))
    card["temperature"] *= factor
    (out / "1" / "model.json").write_text(json.dumps(card), encoding="utf-8")
    config = (out / "config.pbtxt").read_text(encoding="utf-8")
    (out / "config.pbtxt").write_text(config.replace(before, model_digest(out / "1")), encoding="utf-8")
    golden = read_golden(package)
    found = classifier(out, golden.session).predict(golden.texts)
    write_golden(golden._replace(labels=found.labels, probabilities=found.probabilities), out)
    return sealed(out)


def sealed(package: Path) -> Path:
    """A package with a manifest that fits its files."""
    write_json(package / MANIFEST, describe_files(package))
    return package


def classifier(package: Path, session: str) -> Classifier:
    """The packaged model, offline."""
    return Classifier(package / "1", session=open_session(package / "1", session, 2))


def offline(packages: Mapping[int, Path]) -> Offline:
    """A function from a version and texts to what it says of them; each model is opened when first asked."""
    models: dict[int, Classifier] = {}

    def said(version: int, texts: Sequence[str]) -> Right:
        if version not in models:
            models[version] = classifier(packages[version], read_golden(packages[version]).session)
        parts = [models[version].predict(texts[at : at + 256]).probabilities for at in range(0, len(texts), 256)]
        return Right(models[version].labels, np.concatenate(parts))

    return said


@contextmanager
def serving(installation: Installation, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve this installation with `evergreen serve`; end it with SIGTERM, and every process that it started."""
    process = begin(installation, **variables)
    try:
        wait_until(lambda: ready(installation), 60, lambda: told(installation))
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its children are told to stop by the kernel
            raise


def begin(installation: Installation, **variables: str) -> subprocess.Popen[bytes]:
    """`evergreen serve`, not waited for; what it says goes to serve.log."""
    with (installation.folder / "serve.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "evergreen.cli", "serve"],
            cwd=installation.folder,
            env=clean_environment() | {"EVERGREEN_HOME": str(installation.home)} | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )


def clean_environment() -> dict[str, str]:
    """Ours without anything that leads to somebody's state, and with the project on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "MLFLOW_", "OTEL_"))}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def ready(installation: Installation) -> bool:
    """Whether the gateway says that it is ready."""
    try:
        with urlopen(f"http://{installation.params.gateway.host}:{installation.params.gateway.port}/readyz", timeout=2) as page:
            return bool(page.status == 200)
    except OSError:
        return False


def told(installation: Installation) -> str:
    """What `evergreen serve` has said."""
    return (installation.folder / "serve.log").read_text(encoding="utf-8", errors="replace")


def wait_until(happens: Callable[[], bool], within_s: float, otherwise: Callable[[], str] = lambda: "") -> float:
    """Seconds until it happened; raises `TimeoutError` with what `otherwise` tells when it does not."""
    begun = time.monotonic()
    while not happens():
        if time.monotonic() - begun > within_s:
            raise TimeoutError(f"not within {within_s} s; {otherwise()}")
        time.sleep(0.02)
    return time.monotonic() - begun


def programs(process: subprocess.Popen[bytes]) -> dict[str, list[psutil.Process]]:
    """Living children of `evergreen serve`: gateway, triton, and model (the stubs of the Python backend)."""
    found: dict[str, list[psutil.Process]] = {name: [] for name in PROGRAMS.values()}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
            alive = child.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            continue
        name = next((name for mark, name in reversed(PROGRAMS.items()) if mark in line), None)
        if name and alive:
            found[name].append(child)
    return found


def followed(installation: Installation) -> dict[str, object]:
    """What the gateway routes by."""
    with urlopen(f"http://{installation.params.gateway.host}:{installation.params.gateway.port}/v1/routes", timeout=10) as page:
        found: dict[str, object] = json.load(page)
    return found


def entered(installation: Installation) -> dict[str, int]:
    """Roles of the release table."""
    with open_state(installation.home) as engine, engine.begin() as connection:
        return dict(roles(connection))


def aliases(installation: Installation) -> dict[str, int]:
    """Roles of the registry."""
    client = mlflow.MlflowClient(f"sqlite:///{installation.home / 'mlflow.db'}")
    return {alias: int(version) for alias, version in client.get_registered_model("evergreen").aliases.items()}


def in_triton(installation: Installation) -> list[str]:
    """Models that Triton has ready."""
    key = triton.key_file(installation.home, installation.params.serve).read_text()
    return sorted(triton.ready_models(installation.params.serve, key))
