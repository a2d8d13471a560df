"""A Triton that waits for ever for a model's dead process is detected, and ended so that it restarts."""

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ToolError
from pipeline.params import Params
from serving.serve import Triton
from serving.triton import server as triton_server
from serving.triton.client import is_ready, load
from serving.triton.server import BURIED_WITHIN_S, DeadModelWatch, Server, has_dead_model_process, run_server, with_free_ports
from tests.manifests.triton_container import CONFIG, MODEL

# a parent of one process, which it reaps on SIGUSR1
PARENT = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
signal.signal(signal.SIGUSR1, lambda *_: child.wait())
print(child.pid, flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def parent(params: Params, tmp_path: Path) -> Iterator[tuple[Server, int]]:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Server(process, params.serve, "key", tmp_path / "log", tmp_path), int(process.stdout.readline())
        process.kill()


def test_a_models_dead_process_is_detected_until_it_is_reaped(parent: tuple[Server, int]) -> None:
    server, child = parent
    assert not has_dead_model_process(server)
    subprocess.run(["kill", "-9", str(child)], check=True)
    wait_until_lost(server)
    server.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while has_dead_model_process(server):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_watch_looks_once_a_second_however_often_it_is_asked(
    parent: tuple[Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Server] = []
    monkeypatch.setattr(triton_server, "has_dead_model_process", lambda server: bool(looks.append(server) or True))
    watch, asked_at = DeadModelWatch(), [100 + step / 4 for step in range(25)]  # for six seconds, four times a second
    crippled = [now for now in asked_at if watch.is_crippled(parent[0], now)]
    assert len(looks) == 7
    assert crippled == [100 + BURIED_WITHIN_S, 101 + BURIED_WITHIN_S]


def test_while_processes_cannot_be_listed_none_counts_as_dead(
    parent: tuple[Server, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: psutil.Process) -> list[psutil.Process]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(psutil.Process, "children", refuse)
    assert not has_dead_model_process(parent[0])


def test_only_a_triton_that_does_not_reap_it_is_ended(parent: tuple[Server, int], params: Params, tmp_path: Path) -> None:
    server, child = parent
    announced: list[str] = []
    triton = Triton(params, tmp_path, announced.append)
    triton.server = server
    triton.kill_if_crippled(100.0)
    assert server.process.poll() is None
    subprocess.run(["kill", "-9", str(child)], check=True)
    wait_until_lost(server)
    triton.kill_if_crippled(200.0)
    triton.kill_if_crippled(200.0 + BURIED_WITHIN_S / 2)
    assert server.process.poll() is None
    assert announced == []
    triton.kill_if_crippled(200.0 + BURIED_WITHIN_S)
    assert server.process.returncode == -signal.SIGKILL
    assert announced == ["a model's process has died, and Triton does not replace it; the last output:\n"]


def test_a_model_that_dies_while_it_is_loaded_is_reaped_in_time(params: Params, tmp_path: Path) -> None:
    """A broken challenger must not end the Triton that serves the champion."""
    for name, prefix in (("good", ""), ("dies", "import os\nos._exit(3)\n")):
        (tmp_path / f"models/{name}/1").mkdir(parents=True)
        (tmp_path / f"models/{name}/1/model.py").write_text(prefix + MODEL)
        (tmp_path / f"models/{name}/config.pbtxt").write_text(CONFIG)
    lost: list[float] = []
    with run_server(tmp_path / "models", ["good"], with_free_ports(params.serve), tmp_path / "home") as server:
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load, server.serve, "dies", server.admin_key)
            while not loading.done() or has_dead_model_process(server):
                lost += [time.monotonic()] if has_dead_model_process(server) else []
                time.sleep(0.01)
        assert isinstance(loading.exception(), ToolError)
        assert is_ready(server.serve, ["good"])
    assert lost, "its death was never detected"
    assert lost[-1] - lost[0] < BURIED_WITHIN_S / 2


def wait_until_lost(server: Server) -> None:
    deadline = time.monotonic() + 10
    while not has_dead_model_process(server):
        assert time.monotonic() < deadline
        time.sleep(0.01)
