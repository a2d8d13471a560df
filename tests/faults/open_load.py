"""Open-loop load on a gateway whose answers are held against the offline ones of the version that each of them names."""

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
    """A stretch of one run at one rate."""

    rate_per_s: float
    duration_s: float
    repeat_share: float


class Sent(NamedTuple):
    """What was sent and what came back: N requests in order of their times."""

    result: Result
    texts: list[str]
    answers: list[Answer | None]  # label and confidence stand in `label`
    took_ms: NDArray[np.float32]  # (N,) from the intended send time to the end, whichever it was
    without_retry_after: int  # answers of 503 that do not say when to come back
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
    """One run of several parts without a gap; `on_second` hears the seconds since its start."""
    whole_s = sum(one.duration_s for one in parts)
    load = Load(parts[0].rate_per_s, whole_s, "poisson", 0.0, 1.0, seed, TIMEOUT_S, CONNECTIONS)
    plan = _joined(texts, parts, load)
    target = gateway_target(url, units=0, headers=headers or {})._replace(read=_read)
    encode = encoder(target)
    wire = Wire(resolve(target.url), [encode(text, n) for n, text in enumerate(plan.texts)], plan.at_s.tolist(), target.read)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    began_s = 0.0

    def tick(elapsed_s: float) -> None:
        nonlocal began_s
        began_s = began_s or time.monotonic() - elapsed_s
        on_second(elapsed_s)

    with no_garbage_collection(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes, without = runner.run(_run(wire, load, tick))
    if outcomes.interrupted:
        raise KeyboardInterrupt
    result = make_result(plan, outcomes, load, names=(target.name, target.url), started_at=started_at, wrong=None)
    took_ms = (np.array(outcomes.took_s) * 1000).astype(np.float32)
    return Sent(result, plan.texts, outcomes.answers, took_ms, without, began_s)


def wrong_answers(said: Iterable[tuple[str, int, str]], offline: Offline, atol: float) -> list[str]:
    """In words, of (text, version, label and confidence) those that are not the offline answer of the version they name.

    What a batch's other texts do to the last digits is allowed for: a confidence may be off by `atol`, and of classes that lie
    within twice that each may win.
    """
    by_version: dict[int, list[tuple[str, str]]] = {}
    for text, version, answer in said:
        by_version.setdefault(version, []).append((text, answer))
    found = []
    for version, answers in sorted(by_version.items()):
        unique = list(dict.fromkeys(text for text, _ in answers))
        right = offline(version, unique)
        lines, columns = ({one: n for n, one in enumerate(all_)} for all_ in (unique, right.labels))
        for text, answer in answers:
            label, _, confidence = answer.rpartition(" ")
            own = right.probabilities[lines[text]]
            meant = float(own[columns[label]]) if label in columns else 0.0
            if not (meant >= own.max() - 2 * atol and abs(float(confidence) - meant) <= atol):
                found.append(f"version {version} of {text!r}: {answer}, not {right.labels[int(own.argmax())]} {own.max():.6f}")
    return found


class _Listening(LoadConnection):
    """Also hears whether an answer says when to come back, which the load test does not care about."""

    retry_after = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.retry_after = False

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if name.lower() == b"retry-after":
            self.retry_after = True


class _Heeding(Sender):
    """Counts the answers of 503 that do not say when to come back."""

    connection_class = _Listening
    without_retry_after = 0

    def on_answer(self, connection: LoadConnection, request: int, status: int, now_s: float) -> None:
        if status == 503 and not (isinstance(connection, _Listening) and connection.retry_after):
            self.without_retry_after += 1
        super().on_answer(connection, request, status, now_s)


async def _run(wire: Wire, load: Load, on_second: OnSecond) -> tuple[Outcomes, int]:
    sender = _Heeding(wire, load, None, lambda elapsed_s, _sent, _ended, _failed: on_second(elapsed_s))
    return await sender.run(), sender.without_retry_after


def _joined(texts: Sequence[str], parts: Sequence[Part], load: Load) -> Plan:
    at_s, sent, repeats, since_s = [], [], [], 0.0
    for number, part in enumerate(parts):
        own = load._replace(**part._asdict(), seed=1000 * load.seed + number)
        plan = make_plan(texts, own)
        at_s.append(plan.at_s + since_s)
        sent += plan.texts
        repeats.append(plan.repeats)
        since_s += part.duration_s
    return Plan(np.concatenate(at_s), sent, np.concatenate(repeats))


def _read(answer: bytes, _json_bytes: int) -> Answer:
    prediction = orjson.loads(answer)["predictions"][0]
    return Answer(f"{prediction['label']} {prediction['confidence']}", str(prediction["version"]), prediction["cached"])
