"""The real gateway app on a real server in this process, in front of a stand-in for Triton's connection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.params import Params
from pipeline.runtime.outputs import ModelOutputs
from serving.access.callers import Callers
from serving.gateway import app as gateway_app
from serving.processes.ports import free_port
from serving.release.release_table import add_release
from serving.triton.client import ModelSchema
from state.database import open_state
from tests.http_servers import serving_app

LABELS = ("refund", "track")


class FakeConnection:
    """Answers every text with the first label."""

    def __init__(self, *_: Any) -> None:
        pass

    async def infer(self, model: str, texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        count = len(texts)
        return ModelOutputs(
            [LABELS[0]] * count,
            np.array([[0.75, 0.25]] * count, np.float32),
            np.zeros((count, 64), np.float16),
            np.full(count, 5, np.int32),
            np.full(count, 1.5, np.float32),
        )

    async def is_ready(self, model: str) -> bool:
        return True

    async def schema(self, model: str) -> ModelSchema:
        return ModelSchema(LABELS)

    async def close(self) -> None:
        pass


@contextmanager
def running_gateway(params: Params, home: Path, connection: type = FakeConnection) -> Iterator[int]:
    """Run the gateway with version 1 as champion; yields its port."""
    with open_state(home) as engine, engine.begin() as transaction:
        add_release(transaction, 1, "a" * 64)
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway_app, "Connection", connection)
        app = gateway_app.create_app(params, home, Callers(home / "tokens.json", "127.0.0.1"))
        with serving_app(app, "127.0.0.1", port, refused=app.metrics.count_refusal):
            yield port
