"""Triton's container on this machine: the manifest's command, a small model repository, loopback ports."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.params import Serve
from serving.release.fetch_repository import fetch, open_store
from serving.release.manifest import MANIFEST, describe_files
from serving.release.signature import sign
from serving.release.signing_keys import signing_key, trusted_folder, trusted_keys
from serving.triton.client import is_ready
from serving.triton.server import backends_folder, interpreter_folder, server_environment, wheel_folder, with_free_ports
from tests.manifests.rendered import TRITON_PORTS, Object, flags

VERSIONS = (7, 8)
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(len(pb_utils.get_input_tensor_by_name(request, "text").as_numpy())) for request in requests]

    def answer(self, rows):
        return pb_utils.InferenceResponse([
            pb_utils.Tensor("label", np.full((rows, 1), b"it answers", dtype=np.object_)),
            pb_utils.Tensor("probabilities", np.full((rows, 2), 0.5, dtype=np.float32)),
            pb_utils.Tensor("sketch", np.zeros((rows, 2), dtype=np.float16)),
            pb_utils.Tensor("pieces", np.ones((rows, 1), dtype=np.int32)),
            pb_utils.Tensor("pieces_per_word", np.ones((rows, 1), dtype=np.float32)),
        ])
"""
CONFIG = """
backend: "python" max_batch_size: 4
input { name: "text" data_type: TYPE_STRING dims: [1] }
output { name: "label" data_type: TYPE_STRING dims: [1] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [2] }
output { name: "sketch" data_type: TYPE_FP16 dims: [2] }
output { name: "pieces" data_type: TYPE_INT32 dims: [1] }
output { name: "pieces_per_word" data_type: TYPE_FP32 dims: [1] }
instance_group { kind: KIND_CPU count: 1 }
"""
NEWER = ("--http-max-input-size", "--allow-client-shm")  # options that the wheel's 2.51 lacks


class TritonContainer(NamedTuple):
    """A started container."""

    process: subprocess.Popen[bytes]
    serve: Serve
    log: Path

    def wait_ready(self) -> None:
        models = [f"intent-{version}" for version in VERSIONS]
        wait_until(lambda: self.process.poll() is not None or is_ready(self.serve, models), timeout_s=60)
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8", errors="replace")


def fetch_models(folder: Path) -> Path:
    """Fetch two small models with the init step; return the model repository."""
    for version in VERSIONS:
        model = folder / f"store/intent-{version}"
        (model / "1").mkdir(parents=True)
        (model / "1/model.py").write_text(MODEL)
        (model / "config.pbtxt").write_text(CONFIG)
        (model / MANIFEST).write_text(json.dumps(describe_files(model)))
        sign(model, model.name, signing_key(folder))
    (folder / "store/champion.json").write_text(json.dumps({"versions": VERSIONS}))
    fetch(open_store(str(folder / "store"), attempts=1, wait_s=0), folder / "models", trusted_keys(trusted_folder(folder)))
    return folder / "models"


def start_triton(main: Object, repository: Path, serve: Serve, **changed: str) -> TritonContainer:
    """Start the container's command with other paths, ports and named options."""
    serve = with_free_ports(serve)
    options = {**flags(main), "--model-repository": str(repository)}
    for name, setting in TRITON_PORTS.items():
        options |= {f"--{name}-address": serve.host, f"--{name}-port": str(getattr(serve, setting))}
    options["--backend-directory"] = str(backends_folder(repository.parent))
    options |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    arguments = [f"{name}={value}" if value else name for name, value in options.items() if name not in NEWER]
    environment = server_environment(interpreter_folder(repository.parent) / "bin")
    environment["PATH"] = f"{wheel_folder() / 'bin'}:{environment['PATH']}"
    log = repository.parent / f"log-{serve.http_port}"
    with log.open("wb") as output:
        process = subprocess.Popen([*main["command"], *arguments], env=environment, stdout=output, stderr=output)
    return TritonContainer(process, serve, log)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> None:
    """Poll a condition until the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
