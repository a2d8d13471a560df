"""Open-loop load on a gateway whose answers are held against the offline ones of the version that each of them names."""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import orjson
import uvloop

from serving.loadtest import Answer, Load, Plan, Result, gateway_target, make_plan
from serving.loadtest.result import make_result
from serving.loadtest.run import resolve
from serving.loadtest.sender import Booked, Sender, Wire
from serving.loadtest.targets import encoder

CONFIDENCE_ATOL = 0.003  # a batch changes the last digits; another version moves confidences by more, see `stack.FACTORS`
Offline = Callable[[int, Sequence[str]], list[tuple[str, float]]]
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
    began_s: float  # of the monotonic clock, within a few ms


def send(url: str, texts: Sequence[str], parts: Sequence[Part], *, seed: int, on_second: OnSecond = lambda _s: None) -> Sent:
    """One run of several parts without a gap; `on_second` hears the seconds since its start."""
    load = Load(parts[0].rate_per_s, sum(one.duration_s for one in parts), "poisson", 0.0, 1.0, seed, 10.0, 1024)
    plan = _joined(texts, parts, load)
    target = gateway_target(url, units=0, headers={})._replace(read=_read)
    encode = encoder(target)
    wire = Wire(resolve(target.url), [encode(text, n) for n, text in enumerate(plan.texts)], plan.at_s.tolist(), target.read)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    began_s = 0.0

    def tick(elapsed_s: float) -> None:
        nonlocal began_s
        began_s = began_s or time.monotonic() - elapsed_s
        on_second(elapsed_s)

    gc.collect()
    gc.disable()  # a collection would hold up the sending
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            booked = runner.run(_run(wire, load, tick))
    finally:
        gc.enable()
    if booked.interrupted:
        raise KeyboardInterrupt
    result = make_result(plan, booked, load, names=(target.name, target.url), started_at=started_at, wrong=None)
    return Sent(result, plan.texts, booked.answers, began_s)


def wrong_answers(sent: Sent, offline: Offline) -> list[str]:
    """In words, every answer that is not the offline one of the version it names."""
    found = []
    named = sorted({answer.version for answer in sent.answers if answer and answer.version})
    for version in named:
        rows = [n for n, answer in enumerate(sent.answers) if answer and answer.version == version]
        unique = list(dict.fromkeys(sent.texts[row] for row in rows))
        right = dict(zip(unique, offline(int(version), unique), strict=True))
        for row in rows:
            label, _, confidence = (sent.answers[row].label or "").rpartition(" ")  # type: ignore[union-attr]
            meant, sure = right[sent.texts[row]]
            if label != meant or not abs(float(confidence) - sure) <= CONFIDENCE_ATOL:
                found.append(f"version {version} of {sent.texts[row]!r}: {label} {confidence}, not {meant} {sure:.6f}")
    return found


async def _run(wire: Wire, load: Load, on_second: OnSecond) -> Booked:
    return await Sender(wire, load, None, lambda elapsed_s, _sent, _ended, _failed: on_second(elapsed_s)).run()


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
