"""Send ten thousand equal webhooks, then ten thousand different ones; kill the receiver and Alertmanagers meanwhile.

The receiver and both Alertmanagers are real processes. Afterwards the drill counts the journal's alerts, and decides on them.
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
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from pipeline.params import Params
from serving.loadtest.result import percentile
from serving.processes import Announce
from serving.processes.ports import free_port
from tests.faults.scorecard import Outcome, Promise
from tests.faults.stack import wait_until
from tests.faults.timeline import Line, Mark, Timeline
from tests.faults.traffic import Traffic
from tests.faults.watching.alert_environment import (
    Environment,
    alertmanager,
    alertmanager_alerts,
    decide_alerts,
    is_up,
    journal_fingerprints,
    lay_out,
    post_alerts,
    receiver_is_up,
    running_receiver,
    start,
    stop,
    webhook,
)

P99_MS, RSS_MIB = 50.0, 200.0
DISCONNECTED = -1  # the connection ended before an answer


class Amount(NamedTuple):
    """Say how much is done."""

    webhooks: int  # of each kind: all equal, all different
    callers: int  # concurrent
    kills: int  # of the receiver
    shared_alerts: int  # alerts that both Alertmanagers have


class Figures(NamedTuple):
    """Hold the figures that decide the verdict."""

    p99_same_ms: float
    p99_different_ms: float
    started_by_one: int  # retrains started after many equal webhooks
    started: int  # in all
    episodes: int
    decisions: int
    lost: int  # acknowledged but not in the journal
    felt: int  # attempts that failed because of kills
    missing: int  # alerts of both Alertmanagers that neither delivered
    too_many: int  # superfluous rows of these
    rss_mib: float


class Attempt(NamedTuple):
    """Record one sent webhook, by the monotonic clock."""

    at_s: float
    status: int
    took_ms: float


def run(folder: Path, params: Params, tools: Path, amount: Amount, announce: Announce) -> tuple[Outcome, Timeline]:
    """Run the drill in an empty home."""
    environment = lay_out(folder, params)
    with ExitStack() as stack:
        receiver = stack.enter_context(running_receiver(environment))
        announce(f"{amount.webhooks} equal webhooks, {amount.callers} concurrent callers")
        equal = send_webhooks(environment, [webhook(0)] * amount.webhooks, amount.callers)
        started_by_one = decide_alerts(environment).count("started")
        announce(f"{amount.webhooks} different ones")
        different = send_webhooks(environment, [webhook(number) for number in range(1, amount.webhooks + 1)], amount.callers)
        rss_mib = psutil.Process(receiver.pid).memory_info().rss / 2**20
    decide_alerts(environment)  # as a live controller does: the receiver is full at `retrain.max_unseen`
    announce(f"{amount.kills} x kill -9 meanwhile")
    with_kills, kills = send_webhooks_with_kills(environment, amount)
    decide_alerts(environment)
    announce(
        f"two Alertmanagers with the same {amount.shared_alerts} alerts; the receiver starts late, and an Alertmanager is killed"
    )
    missing, rows = deliver_by_alertmanagers(environment, tools, amount)
    in_journal = journal_fingerprints(environment)
    acknowledged = equal.acknowledged | different.acknowledged | with_kills.acknowledged
    verdicts = decide_alerts(environment)
    figures = Figures(
        p99_same_ms=percentile([attempt.took_ms for attempt in equal.attempts], 99),
        p99_different_ms=percentile([attempt.took_ms for attempt in different.attempts], 99),
        started_by_one=started_by_one,
        started=verdicts.count("started"),
        episodes=len(in_journal),
        decisions=len(verdicts),
        lost=len(acknowledged - in_journal),
        felt=sum(attempt.status != 204 for attempt in with_kills.attempts),
        missing=missing,
        too_many=max(0, rows - amount.shared_alerts),
        rss_mib=rss_mib,
    )
    report = figures._asdict() | {"verdicts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}}
    title = "webhooks by the ten thousand, receiver and Alertmanagers killed"
    outcome = Outcome("alerts", title, judge(figures, amount.webhooks), [], report)
    attempts = sorted([*equal.attempts, *different.attempts, *with_kills.attempts])
    return outcome, Timeline("Webhooks to the receiver", as_traffic(attempts), [], kills, [Line("K2", P99_MS)])


class Attempts(NamedTuple):
    """Hold all attempts, and the fingerprints of acknowledged alerts."""

    attempts: list[Attempt]
    acknowledged: set[str]


def judge(figures: Figures, webhooks: int) -> list[Promise]:
    """Return the drill's promises."""
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


def send_webhooks(environment: Environment, bodies: Sequence[bytes], callers: int) -> Attempts:
    """Send in a closed loop: a caller sends its next webhook after an answer, and repeats a webhook that had none."""
    gc.collect()
    gc.freeze()  # a collection would delay the callers and count as the receiver's latency
    try:
        return asyncio.run(_send_webhooks(environment, list(bodies), callers))
    finally:
        gc.unfreeze()


async def _send_webhooks(environment: Environment, bodies: list[bytes], callers: int) -> Attempts:
    result, queue = Attempts([], set()), iter(bodies)
    token = environment.token

    async def call() -> None:
        streams = None
        for body in queue:
            head = (
                f"POST /v1/alerts HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            status = 0
            while status != 204:
                started_s = time.monotonic()
                try:
                    streams = streams or await asyncio.open_connection("127.0.0.1", environment.port)
                    streams[1].write(head + body)
                    status = int((await streams[0].readuntil(b"\r\n\r\n"))[9:12])
                except (OSError, asyncio.IncompleteReadError):
                    status = DISCONNECTED
                result.attempts.append(Attempt(started_s, status, 1000 * (time.monotonic() - started_s)))
                if status != 204:
                    streams = None
                    await asyncio.sleep(0.05)
            result.acknowledged.update(alert["fingerprint"] for alert in json.loads(body)["alerts"])

    await asyncio.gather(*(call() for _ in range(callers)))
    return result


def send_webhooks_with_kills(environment: Environment, amount: Amount) -> tuple[Attempts, list[Mark]]:
    """Send webhooks to a receiver that is killed several times and restarted at once."""
    marks: list[Mark] = []
    is_over = threading.Event()

    def kill_repeatedly() -> None:
        process = start(environment)
        for _ in range(amount.kills):
            wait_until(lambda: receiver_is_up(environment), 60)
            is_over.wait(0.3)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_s = time.monotonic()
            process = start(environment)
            wait_until(lambda: receiver_is_up(environment), 60)
            marks.append(Mark("kill -9", killed_s, time.monotonic()))
        is_over.wait(600)
        stop(process)

    killer = threading.Thread(target=kill_repeatedly)
    killer.start()
    try:
        wait_until(lambda: receiver_is_up(environment), 60)
        numbers = count(2 * amount.webhooks)
        sent = Attempts([], set())
        while not sent.attempts or (len(marks) < amount.kills and killer.is_alive()):  # at least until the last kill
            if sent.attempts:
                decide_alerts(environment)
            more = send_webhooks(environment, [webhook(number) for number in islice(numbers, amount.webhooks)], amount.callers)
            sent = Attempts(sent.attempts + more.attempts, sent.acknowledged | more.acknowledged)
    finally:
        is_over.set()
        killer.join()
    return sent, marks


def deliver_by_alertmanagers(environment: Environment, tools: Path, amount: Amount) -> tuple[int, int]:
    """Return how many alerts of the Alertmanagers did not arrive, and how many rows of them there are."""
    ports = [free_port("127.0.0.1") for _ in range(2)]
    started_at = datetime.now(UTC) - timedelta(hours=1)  # posted again, it is the same episode
    with ExitStack() as stack:
        managers = [stack.enter_context(alertmanager(environment, tools, port)) for port in ports]
        for port in ports:
            wait_until(lambda port=port: is_up(f"http://127.0.0.1:{port}/-/ready"), 60)  # type: ignore[misc]
            post_alerts(port, amount.shared_alerts, started_at)
        time.sleep(1.0)  # both fail to deliver
        stack.enter_context(running_receiver(environment))
        managers[0].send_signal(signal.SIGKILL)
        managers[0].wait()
        stack.enter_context(alertmanager(environment, tools, ports[0]))
        wait_until(lambda: is_up(f"http://127.0.0.1:{ports[0]}/-/ready"), 60)
        post_alerts(ports[0], amount.shared_alerts, started_at)  # as Prometheus does
        wait_until(
            lambda: len(alertmanager_alerts(environment)) >= amount.shared_alerts,
            60,
            lambda: str(alertmanager_alerts(environment)),
        )
        time.sleep(2.0)  # the other one delivers too
    delivered = alertmanager_alerts(environment)
    return amount.shared_alerts - len(set(delivered)), len(delivered)


def as_traffic(attempts: Sequence[Attempt]) -> Traffic:
    """Convert the attempts to traffic for the picture, in which 200 marks an answer."""
    status = np.array([200 if attempt.status == 204 else attempt.status for attempt in attempts], dtype=np.int16)
    at_s = np.array([attempt.at_s for attempt in attempts])
    took_ms = np.array([attempt.took_ms for attempt in attempts], dtype=np.float32)
    return Traffic(at_s, status, took_ms, np.zeros(len(attempts), dtype=np.float32), 0, [], float(at_s[0]))
