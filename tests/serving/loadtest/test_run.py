"""A run against a small real server: statuses, latencies and the figures of the result."""

import asyncio
import http.client
import json
import os
import signal
import time

import numpy as np
import pytest

from serving.loadtest import (
    expect_labels,
    make_plan,
    run,
    run_load,
    without_warmup,
)
from serving.loadtest.result import percentile, spread
from tests.serving.loadtest.conftest import FEW, LOAD, TEXTS, Running, gateway, queue_server
from tests.serving.loadtest.queue_server import FAULTS


def test_a_stall_of_the_server_is_seen_from_intended_times_where_a_closed_loop_misses_it() -> None:
    options = {"service_ms": 1, "stall_after": 200, "stall_ms": 300}
    with queue_server(**options) as running:
        result = run_load(gateway(running.url), TEXTS, LOAD._replace(duration_s=2))
    with queue_server(**options) as running:
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"))
        closed_ms = []
        for text in TEXTS[: len(result.at_s)]:
            start = time.monotonic()
            connection.request("POST", "/v1/predict", json.dumps({"text": text}))
            connection.getresponse().read()
            closed_ms.append((time.monotonic() - start) * 1000)
        connection.close()
    assert result.counts == {"200": len(result.at_s)}
    assert result.p99_all_ms > 200
    assert (result.latency_ms > 100).mean() == pytest.approx(0.1, abs=0.06)  # those due in 200 of 2,000 ms
    assert max(closed_ms) > 300
    assert percentile(np.array(closed_ms), 99) < 100


def test_every_failure_is_counted_by_its_kind_and_has_no_latency(server: Running) -> None:
    expected = dict(zip(FAULTS, (503, -1, -3, -4, -4, 200, 200), strict=True))
    texts = [f"{fault} number {i}" for i, fault in enumerate(["fine", *FAULTS])]
    plan = make_plan(texts, LOAD)
    result = run_load(gateway(server.url), texts, LOAD)
    assert result.status.tolist() == [expected.get(text.split()[0], 200) for text in plan.texts]
    assert sum(result.counts.values()) == len(plan.texts)
    assert set(result.counts) == {"200", "503", "timeout", "connection lost", "unreadable answer"}
    assert np.isnan(result.latency_ms).tolist() == (~result.ok).tolist()
    assert result.p99_all_ms == float("inf")
    assert spread(result.latency_ms[result.ok])["max"] < 1000


def test_wrong_labels_and_versions_are_counted(server: Running) -> None:
    texts = ["one thing", "pleasemislabel this"]
    expected = dict.fromkeys(make_plan(texts, LOAD).texts, "card_arrival")
    result = run_load(gateway(server.url), texts, LOAD, check=expect_labels(expected))
    assert result.wrong is not None
    assert result.wrong.sum() == sum("pleasemislabel" in text for text in make_plan(texts, LOAD).texts) > 0
    assert set(result.versions) == {"3"}
    assert run_load(gateway(server.url), texts, LOAD._replace(duration_s=0.1)).wrong is None


def test_an_unlimited_cache_hits_as_often_as_planned(server: Running) -> None:
    result = run_load(gateway(server.url), TEXTS, LOAD._replace(repeat_share=0.6, rate_per_s=600, seed=77))
    assert result.hit_share == pytest.approx(result.repeats.mean(), abs=0.02)  # a repeat may overtake the first one
    assert result.repeats.mean() == pytest.approx(0.6, abs=0.1)


def test_when_the_server_is_killed_every_request_still_has_one_status() -> None:
    with queue_server(service_ms=1) as running:

        def kill(elapsed_s: float, _sent: int, _ended: int, _failed: int) -> None:
            running.process.kill()

        result = run_load(gateway(running.url), TEXTS, LOAD._replace(duration_s=1.6), on_second=kill)
    assert len(result.status) == len(make_plan(TEXTS, LOAD._replace(duration_s=1.6)).at_s)
    assert set(result.counts) <= {"200", "connection lost", "no connection"}
    assert result.ok[result.at_s < 0.9].all()
    assert set(result.status[result.at_s > 1.2].tolist()) == {-2}


def test_with_all_connections_busy_requests_wait_and_their_clock_runs() -> None:
    with queue_server(service_ms=10) as running:  # 100 a second, asked for 200
        result = run_load(gateway(running.url), TEXTS, LOAD._replace(connections=2, duration_s=1, timeout_s=5))
    assert result.counts == {"200": len(result.at_s)}
    assert result.waited > 50
    assert result.valid
    assert result.latency_ms[-1] == pytest.approx(len(result.at_s) * 10 - result.at_s[-1] * 1000, abs=150)


def test_requests_leave_when_they_are_due(server: Running) -> None:
    result = run_load(gateway(server.url), FEW, LOAD._replace(rate_per_s=1000))
    assert (result.late_ms >= 0).all()
    assert percentile(result.late_ms, 50) < 1
    assert result.offered_per_s == pytest.approx(1000, rel=0.13)
    assert result.achieved_per_s == pytest.approx(result.offered_per_s, rel=0.05)


def test_a_run_whose_generator_was_delayed_is_marked_as_not_valid(server: Running) -> None:
    def hold_up(_elapsed_s: float, _sent: int, _ended: int, _failed: int) -> None:
        time.sleep(0.2)

    result = run_load(gateway(server.url), TEXTS, LOAD._replace(duration_s=1.5), on_second=hold_up)
    assert percentile(result.late_ms, 99) > 50
    assert not result.valid


def test_ctrl_c_returns_the_result_so_far(server: Running) -> None:
    load = LOAD._replace(duration_s=60)
    result = run_load(gateway(server.url), TEXTS, load, on_second=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert result.interrupted
    assert result.until_s < 5
    assert result.counts == {"200": len(result.at_s)}


def test_it_also_runs_in_the_event_loop_of_its_caller(server: Running) -> None:
    result = asyncio.run(run(gateway(server.url), TEXTS, LOAD._replace(duration_s=0.3)))
    assert result.counts == {"200": len(result.at_s)}


def test_a_warm_up_is_left_out_of_every_figure(server: Running) -> None:
    whole = run_load(gateway(server.url), FEW, LOAD)
    warm = without_warmup(whole, 0.5)
    assert len(warm.at_s) == len(warm.status) == len(warm.latency_ms) == (whole.at_s >= 0.5).sum()
    assert warm.offered_per_s == pytest.approx(len(warm.at_s) / 0.5)


def test_percentiles_let_one_request_in_a_hundred_be_slower() -> None:
    assert percentile(np.array([1.0] * 99 + [9.0]), 99) == 1
    assert percentile(np.array([1.0] * 98 + [9.0, np.inf]), 99) == 9
    assert percentile(np.array([1.0] * 97 + [np.inf] * 3), 99) == float("inf")
    assert percentile(np.array([5.0]), 50) == 5
