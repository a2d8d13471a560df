"""The search for the highest rate that keeps the P99 limit."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.loadtest import (
    find_limit,
    run_load,
    write_report,
)
from serving.loadtest.limit import Step, decide_verdict, search
from tests.serving.loadtest.conftest import FEW, LOAD, Running, gateway, queue_server


def test_the_search_closes_in_on_the_highest_rate_that_holds() -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(round(rate))
        return rate <= 430

    assert search(holds, low=100, high=10_000, growth=2, resolution=0.03) == pytest.approx(427, abs=1)
    assert tried == [100, 200, 400, 800, 566, 476, 436, 418, 427]
    assert search(lambda _: False, low=100, high=1000, growth=2, resolution=0.03) == 0
    assert search(lambda _: True, low=100, high=1000, growth=2, resolution=0.03) == 1000


def test_it_finds_the_known_capacity_of_a_server(tmp_path: Path) -> None:
    load = LOAD._replace(arrivals="constant", timeout_s=3, connections=256)
    with queue_server(service_ms=1.5) as running:  # 667 a second; for one second 12 % more, until the queue is 80 ms long
        limit = find_limit(
            gateway(running.url), FEW, load, p99_limit_ms=80, low=620, high=1000, step_s=1.0, warm_s=0.1, resolution=0.12
        )
    assert limit.note == ""
    assert limit.rate_per_s == pytest.approx(667, rel=0.12)
    assert limit.idle_ms < 20
    verdicts = {step.verdict for step in limit.steps}
    assert {"held", "too slow"} <= verdicts <= {"held", "too slow", "generator late"}  # the last: other processes used the cores
    write_report(limit, tmp_path)
    written = json.loads((tmp_path / "loadtest.json").read_text())
    assert written["rate_per_s"] == limit.rate_per_s
    assert len(written["steps"]) == len(limit.steps)
    with Image.open(tmp_path / "loadtest.png") as image:
        assert image.width > 800


def test_a_step_that_can_no_longer_hold_is_stopped_early() -> None:
    with queue_server(service_ms=10) as running:  # 100 a second
        limit = find_limit(
            gateway(running.url), FEW, LOAD, p99_limit_ms=50, low=300, high=300, step_s=10, warm_s=0, resolution=0.03
        )
    assert limit.rate_per_s == 0
    assert [step.verdict for step in limit.steps] == ["too slow", "too slow"]
    assert all(len(step.result.at_s) < 500 for step in limit.steps)  # of 3,000


def test_a_search_that_is_stopped_keeps_its_steps(server: Running) -> None:
    steps: list[Step] = []

    def stop(_elapsed_s: float, _sent: int, _ended: int, _failed: int) -> None:
        if steps:
            os.kill(os.getpid(), signal.SIGINT)

    limit = find_limit(
        gateway(server.url),
        FEW,
        LOAD,
        p99_limit_ms=500,
        low=500,
        high=9000,
        step_s=1.2,
        warm_s=0,
        resolution=0.03,
        on_step=steps.append,
        on_second=stop,
    )
    assert limit.note == "stopped by hand"
    assert limit.rate_per_s == 500
    assert limit.steps == steps


def test_a_target_that_does_not_recover_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.loadtest.limit.DRAIN_S", 0.0)
    with queue_server(service_ms=1, stall_after=60, stall_ms=60_000) as running:  # it answers the first ten probes
        limit = find_limit(
            gateway(running.url),
            FEW,
            LOAD,
            p99_limit_ms=90,
            low=500,
            high=500,
            step_s=1,
            warm_s=0,
            resolution=0.1,
        )
    assert "after the load a probe still took" in limit.note
    assert len(limit.steps) == 1


def test_a_miss_does_not_count_when_the_generator_was_late(server: Running) -> None:
    result = run_load(gateway(server.url), FEW, LOAD._replace(duration_s=0.3))
    count = len(result.at_s)
    slow = result._replace(latency_ms=np.full(count, 60, dtype=np.float32), late_ms=np.full(count, 1, dtype=np.float32))
    late = slow._replace(late_ms=np.full(count, 50, dtype=np.float32))
    lost = result._replace(status=np.where(np.arange(count) == 7, -3, result.status).astype(np.int16))
    assert [decide_verdict(result, 50) for result in (slow, late, lost)] == ["too slow", "generator late", "failed requests"]
    assert decide_verdict(late, 61) == "held"
