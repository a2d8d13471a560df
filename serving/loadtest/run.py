"""One run against a target: plan, bytes, sending, result."""

import asyncio
import gc
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import uvloop

from pipeline.errors import InputError
from serving.loadtest.plan import Load, make_plan
from serving.loadtest.result import Result, make_result
from serving.loadtest.sender import GiveUp, Sender, Wire
from serving.loadtest.targets import Answer, Target, encoder, split_url

Check = Callable[[str, Answer], bool]  # whether the answer to a text is right
Progress = Callable[[float, int, int, int], None]  # seconds since the start, requests sent, ended, failed


async def run(
    target: Target,
    texts: Sequence[str],
    load: Load,
    *,
    check: Check | None = None,
    give_up: GiveUp | None = None,
    on_second: Progress | None = None,
) -> Result:
    """Send what `make_plan(texts, load)` says. Cancelled, it stops sending and returns what was measured so far."""
    plan = make_plan(texts, load)
    encode = encoder(target)
    requests = [encode(text, number) for number, text in enumerate(plan.texts)]
    wire = Wire(resolve(target.url), requests, plan.at_s.tolist(), target.read)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    sender = Sender(wire, load, give_up, on_second or _say_nothing)
    with _no_garbage_collection():
        booked = await sender.run()
    wrong = [a is not None and not check(text, a) for text, a in zip(plan.texts, booked.answers, strict=False)] if check else None
    return make_result(plan, booked, load, names=(target.name, target.url), started_at=started_at, wrong=wrong)


def run_load(
    target: Target,
    texts: Sequence[str],
    load: Load,
    *,
    check: Check | None = None,
    give_up: GiveUp | None = None,
    on_second: Progress | None = None,
) -> Result:
    """`run` under uvloop. Ctrl-C ends the sending and gives the result so far; a second one gives up."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(target, texts, load, check=check, give_up=give_up, on_second=on_second))


def equals(labels: Mapping[str, str]) -> Check:
    """A check by expected label; a text that is not listed is not judged."""
    return lambda text, answer: labels.get(text, answer.label) == answer.label


def resolve(url: str) -> tuple[str, int]:
    """IP address (IPv4 when there is one) and port, asked for once; raises `InputError` for a name that is not known."""
    parts = split_url(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(url, f"the name is not known: {error.strerror}", "check the address") from None
    host, port = min(found, key=lambda one: one[0] != socket.AF_INET)[4][:2]
    return str(host), int(port)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A full collection would hold sending up for as long as it takes; a run makes no cycles worth collecting."""
    gc.collect()
    gc.freeze()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.unfreeze()


def _say_nothing(_elapsed_s: float, _sent: int, _ended: int, _failed: int) -> None:
    pass
