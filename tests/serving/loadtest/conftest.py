"""A small real server as target, `tests/serving/loadtest/queue_server.py`, and the load and texts that the tests send."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from serving.loadtest import (
    Load,
    gateway_target,
)
from tests.conftest import ROOT

LOAD = Load(
    rate_per_s=200, duration_s=1.0, arrivals="poisson", repeat_share=0.0, zipf_s=1.0, seed=3, timeout_s=1.0, connections=64
)
TEXTS = [json.loads(line)["text"] for line in (ROOT / "data/support_desk.jsonl").read_text(encoding="utf-8").splitlines()]
FEW = TEXTS[:50]


class Running(NamedTuple):
    process: subprocess.Popen[str]
    url: str


@contextmanager
def queue_server(**options: float) -> Iterator[Running]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.serving.loadtest.queue_server", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Running(process, f"http://127.0.0.1:{process.stdout.readline().strip()}")
        process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with queue_server() as running:
        yield running


def gateway(url: str) -> object:
    return gateway_target(url, units=0, headers={})
