"""Put open-loop load on a gateway, and compare its answers with the offline ones of the version that each answer names."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from serving.loadtest import Answer, Load, Plan, Result, gateway_target, make_plan
from serving.loadtest.connection import LoadConnection
from serving.loadtest.result import make_result
from serving.loadtest.run import no_garbage_collection, resolve
from serving.loadtest.sender import Outcomes, Sender, Wire
from serving.loadtest.targets import encoder
from tests.faults.stack import Offline

TIMEOUT_S, CONNECTIONS = 10.0, 4096
OnSecond = Callable[[float], None]


class Part(NamedTuple):
    """Describe a stretch of a run at one rate."""

    rate_per_s: float
    duration_s: float
    repeat_share: float


class Sent(NamedTuple):
    """Hold N requests in order of their times, and their answers."""

    result: Result
    texts: list[str]
    answers: list[Answer | None]  # `label` holds label and confidence
    took_ms: NDArray[np.float32]  # (N,) from the intended send time to the answer or failure
    without_retry_after: int  # answers of 503 without Retry-After
    began_s: float  # of the monotonic clock, within a few ms


def send(
    url: str,
    texts: Sequence[str],
    parts: Sequence[Part],
    *,
    seed: int,
    on_second: OnSecond = lambda _s: None,
    headers: Mapping[str, str] | None = None,
) -> Sent:
    """Run several parts without a gap; `on_second` gets the seconds since the start."""
    whole_s = sum(part.duration_s for part in parts)
    load = Load(parts[0].rate_per_s, whole_s, "poisson", 0.0, 1.0, seed, TIMEOUT_S, CONNECTIONS)
    plan = _join_plans(texts, parts, load)
    target = gateway_target(url, units=0, headers=headers or {})._replace(read=_read_answer)
    encode = encoder(target)
    wire = Wire(resolve(target.url), [encode(text, n) for n, text in enumerate(plan.texts)], plan.at_s.tolist(), target.read)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    began_s = 0.0

    def tick(elapsed_s: float) -> None:
        nonlocal began_s
        began_s = began_s or time.monotonic() - elapsed_s
        on_second(elapsed_s)

    with no_garbage_collection(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes, without_retry_after = runner.run(_run_sender(wire, load, tick))
    if outcomes.interrupted:
        raise KeyboardInterrupt
    result = make_result(plan, outcomes, load, names=(target.name, target.url), started_at=started_at, wrong=None)
    took_ms = (np.array(outcomes.took_s) * 1000).astype(np.float32)
    return Sent(result, plan.texts, outcomes.answers, took_ms, without_retry_after, began_s)


def wrong_answers(answers: Iterable[tuple[str, int, str]], offline: Offline, atol: float) -> list[str]:
    """Describe the answers (text, version, label and confidence) that differ from the offline ones of the version they name.

    Other texts of a batch change the last digits: a confidence may differ by `atol`, and every class within twice that of the
    most probable one is right.
    """
    by_version: dict[int, list[tuple[str, str]]] = {}
    for text, version, answer in answers:
        by_version.setdefault(version, []).append((text, answer))
    wrong = []
    for version, of_version in sorted(by_version.items()):
        unique = list(dict.fromkeys(text for text, _ in of_version))
        expected = offline(version, unique)
        rows = dict(zip(unique, expected.probabilities, strict=True))
        columns = {label: column for column, label in enumerate(expected.labels)}
        for text, answer in of_version:
            label, _, confidence = answer.rpartition(" ")
            row = rows[text]
            probability = float(row[columns[label]]) if label in columns else 0.0
            if not (probability >= row.max() - 2 * atol and abs(float(confidence) - probability) <= atol):
                wrong.append(f"version {version} of {text!r}: {answer}, not {expected.labels[int(row.argmax())]} {row.max():.6f}")
    return wrong


class _ReadingConnection(LoadConnection):
    """Note also whether an answer has Retry-After, which the load test ignores."""

    retry_after = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.retry_after = False

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if name.lower() == b"retry-after":
            self.retry_after = True


class _CountingSender(Sender):
    """Count the answers of 503 without Retry-After."""

    connection_class = _ReadingConnection
    without_retry_after = 0

    def on_answer(self, connection: LoadConnection, request: int, status: int, now_s: float) -> None:
        if status == 503 and not (isinstance(connection, _ReadingConnection) and connection.retry_after):
            self.without_retry_after += 1
        super().on_answer(connection, request, status, now_s)


async def _run_sender(wire: Wire, load: Load, on_second: OnSecond) -> tuple[Outcomes, int]:
    sender = _CountingSender(wire, load, None, lambda elapsed_s, _sent, _ended, _failed: on_second(elapsed_s))
    return await sender.run(), sender.without_retry_after


def _join_plans(texts: Sequence[str], parts: Sequence[Part], load: Load) -> Plan:
    at_s, sent, repeats, since_s = [], [], [], 0.0
    for number, part in enumerate(parts):
        load_of_part = load._replace(**part._asdict(), seed=1000 * load.seed + number)
        plan = make_plan(texts, load_of_part)
        at_s.append(plan.at_s + since_s)
        sent += plan.texts
        repeats.append(plan.repeats)
        since_s += part.duration_s
    return Plan(np.concatenate(at_s), sent, np.concatenate(repeats))


def _read_answer(answer: bytes, _json_bytes: int) -> Answer:
    prediction = orjson.loads(answer)["predictions"][0]
    return Answer(f"{prediction['label']} {prediction['confidence']}", str(prediction["version"]), prediction["cached"])
