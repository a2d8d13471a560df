"""Alerts in every unkind way: ten thousand times the same, ten thousand at once, a receiver and Alertmanagers killed on the way.

The receiver and both Alertmanagers are real processes; what they leave in the journal is counted afterwards, and decided on once.
"""

import asyncio
import gc
import json
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from pipeline.params import Params
from serving.loadtest.result import percentile
from serving.processes import Announce
from serving.processes.ports import free_port
from tests.faults.alert_environment import (
    Environment,
    alertmanager,
    answers,
    begin,
    end,
    entered,
    is_up,
    lay_out,
    post_alerts,
    receiving,
    theirs,
    verdicts,
    webhook,
)
from tests.faults.scorecard import Outcome, Promise
from tests.faults.stack import wait_until
from tests.faults.timeline import Line, Mark, Timeline
from tests.faults.traffic import Traffic

P99_MS, RSS_MIB = 50.0, 200.0
LOST = -1  # the connection ended before there was an answer


class Amount(NamedTuple):
    """How much is done."""

    webhooks: int  # of each kind: all the same, all different
    callers: int  # at once
    kills: int  # of the receiver
    told: int  # alerts that two Alertmanagers both know


class Figures(NamedTuple):
    """What the verdict depends on."""

    p99_same_ms: float
    p99_different_ms: float
    started_by_one: int  # retrains decided on after many equal webhooks
    started: int  # in all
    episodes: int
    decisions: int
    lost: int  # acknowledged, and not in the journal
    felt: int  # tries that were not answered because of kills
    missing: int  # alerts that two Alertmanagers knew and none brought
    too_many: int  # rows of theirs
    rss_mib: float


class Shot(NamedTuple):
    """One webhook, by the monotonic clock."""

    at_s: float
    status: int
    took_ms: float


def run(folder: Path, params: Params, tools: Path, amount: Amount, say: Announce) -> tuple[Outcome, Timeline]:
    """The drill from an empty home."""
    environment = lay_out(folder, params)
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving(environment))
        say(f"{amount.webhooks} webhooks that are all the same, {amount.callers} callers at once")
        same = storm(environment, [webhook(0)] * amount.webhooks, amount.callers)
        started_by_one = verdicts(environment).count("started")
        say(f"{amount.webhooks} different ones")
        different = storm(environment, [webhook(number) for number in range(1, amount.webhooks + 1)], amount.callers)
        rss_mib = psutil.Process(receiver.pid).memory_info().rss / 2**20
    verdicts(environment)  # seen by a controller, as all the time in life: the receiver is full at `retrain.max_unseen`
    say(f"{amount.kills} x kill -9 in the middle")
    again, kills = storm_with_kills(environment, amount)
    verdicts(environment)
    say(f"two Alertmanagers with the same {amount.told} alerts; one is killed while it tells, nobody listens at first")
    missing, rows = by_alertmanagers(environment, tools, amount)
    there = entered(environment)
    acknowledged = same.acknowledged | different.acknowledged | again.acknowledged
    made = verdicts(environment)
    figures = Figures(
        p99_same_ms=percentile([one.took_ms for one in same.shots], 99),
        p99_different_ms=percentile([one.took_ms for one in different.shots], 99),
        started_by_one=started_by_one,
        started=made.count("started"),
        episodes=len(there),
        decisions=len(made),
        lost=len(acknowledged - there),
        felt=sum(one.status != 204 for one in again.shots),
        missing=missing,
        too_many=max(0, rows - amount.told),
        rss_mib=rss_mib,
    )
    told = figures._asdict() | {"verdicts": {verdict: made.count(verdict) for verdict in sorted(set(made))}}
    what = "webhooks by the ten thousand, receiver and Alertmanagers killed"
    outcome = Outcome("alerts", what, judge(figures, amount.webhooks), [], told)
    shots = sorted([*same.shots, *different.shots, *again.shots])
    return outcome, Timeline("Webhooks to the receiver", as_traffic(shots), [], kills, [Line("K2", P99_MS)])


class Shots(NamedTuple):
    """Every try, and the episodes that were acknowledged."""

    shots: list[Shot]
    acknowledged: set[str]  # fingerprints


def judge(figures: Figures, webhooks: int) -> list[Promise]:
    """What has to hold."""
    return [
        Promise(f"P99 of {webhooks} equal webhooks", figures.p99_same_ms, "ms", at_most=P99_MS, goal="K2"),
        Promise(f"P99 of {webhooks} different ones", figures.p99_different_ms, "ms", at_most=P99_MS, goal="K2"),
        Promise("decided on after the equal ones", figures.started_by_one, "retrains", at_most=1, at_least=1, goal="K2"),
        Promise("decided on in all", figures.started, "retrains", at_most=1, at_least=1, goal="K2"),
        Promise("without a decision, or with two", abs(figures.episodes - figures.decisions), "episodes", at_most=0, goal="K2"),
        Promise("acknowledged and lost", figures.lost, "alerts", at_most=0, goal="K2"),
        Promise("not answered because of kills: they were felt", figures.felt, "webhooks", at_least=1),
        Promise("that no Alertmanager brought", figures.missing, "alerts", at_most=0),
        Promise("of theirs, too many", figures.too_many, "rows", at_most=0),
        Promise("resident memory of the receiver", figures.rss_mib, "MiB", at_most=RSS_MIB),
    ]


def storm(environment: Environment, bodies: Sequence[bytes], callers: int) -> Shots:
    """Closed loop: each caller sends its next webhook when the last was answered, and the same again when it was not."""
    gc.collect()
    gc.freeze()  # a collection would hold up the callers, and count as the receiver's time
    try:
        return asyncio.run(_storm(environment, list(bodies), callers))
    finally:
        gc.unfreeze()


async def _storm(environment: Environment, bodies: list[bytes], callers: int) -> Shots:
    made, waiting = Shots([], set()), iter(bodies)
    token = environment.token

    async def call() -> None:
        streams = None
        for body in waiting:
            head = (
                f"POST /v1/alerts HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            status = 0
            while status != 204:
                begun = time.monotonic()
                try:
                    streams = streams or await asyncio.open_connection("127.0.0.1", environment.port)
                    streams[1].write(head + body)
                    status = int((await streams[0].readuntil(b"\r\n\r\n"))[9:12])
                except (OSError, asyncio.IncompleteReadError):
                    status = LOST
                made.shots.append(Shot(begun, status, 1000 * (time.monotonic() - begun)))
                if status != 204:
                    streams = None
                    await asyncio.sleep(0.05)
            made.acknowledged.update(one["fingerprint"] for one in json.loads(body)["alerts"])

    await asyncio.gather(*(call() for _ in range(callers)))
    return made


def storm_with_kills(environment: Environment, amount: Amount) -> tuple[Shots, list[Mark]]:
    """A receiver that is killed in the middle, and started again at once."""
    marks: list[Mark] = []
    is_over = threading.Event()

    def kill_again_and_again() -> None:
        process = begin(environment)
        for _ in range(amount.kills):
            wait_until(lambda: answers(environment), 60)
            is_over.wait(0.3)
            process.send_signal(signal.SIGKILL)
            process.wait()
            begun = time.monotonic()
            process = begin(environment)
            wait_until(lambda: answers(environment), 60)
            marks.append(Mark("kill -9", begun, time.monotonic()))
        is_over.wait(600)
        end(process)

    killer = threading.Thread(target=kill_again_and_again)
    killer.start()
    try:
        wait_until(lambda: answers(environment), 60)
        first = 2 * amount.webhooks
        shots = storm(environment, [webhook(first + number) for number in range(amount.webhooks)], amount.callers)
        while len(marks) < amount.kills and killer.is_alive():  # they were faster than the kills
            first += amount.webhooks
            verdicts(environment)
            more = storm(environment, [webhook(first + number) for number in range(amount.webhooks)], amount.callers)
            shots = Shots(shots.shots + more.shots, shots.acknowledged | more.acknowledged)
    finally:
        is_over.set()
        killer.join()
    return shots, marks


def by_alertmanagers(environment: Environment, tools: Path, amount: Amount) -> tuple[int, int]:
    """Alerts of theirs that did not arrive, and rows that there are of them."""
    ports = [free_port("127.0.0.1") for _ in range(2)]
    began = datetime.now(UTC) - timedelta(hours=1)  # told again, it is the same episode
    with ExitStack() as stack:
        managers = [stack.enter_context(alertmanager(environment, tools, port)) for port in ports]
        for port in ports:
            wait_until(lambda port=port: is_up(f"http://127.0.0.1:{port}/-/ready"), 60)  # type: ignore[misc]
            post_alerts(port, amount.told, began)
        time.sleep(1.0)  # both try in vain
        stack.enter_context(receiving(environment))
        managers[0].send_signal(signal.SIGKILL)
        managers[0].wait()
        stack.enter_context(alertmanager(environment, tools, ports[0]))
        wait_until(lambda: is_up(f"http://127.0.0.1:{ports[0]}/-/ready"), 60)
        post_alerts(ports[0], amount.told, began)  # as Prometheus does
        wait_until(lambda: len(theirs(environment)) >= amount.told, 60, lambda: str(theirs(environment)))
        time.sleep(2.0)  # the other one tells too
    own = theirs(environment)
    return amount.told - len(set(own)), len(own)


def as_traffic(shots: Sequence[Shot]) -> Traffic:
    """In the form that pictures are drawn from: 204 is what answers are elsewhere."""
    status = np.array([200 if one.status == 204 else one.status for one in shots], dtype=np.int16)
    at_s = np.array([one.at_s for one in shots])
    took = np.array([one.took_ms for one in shots], dtype=np.float32)
    return Traffic(at_s, status, took, np.zeros(len(shots), dtype=np.float32), 0, [], float(at_s[0]))
