"""Run a load against a target: plan, encode, send, evaluate."""

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
from serving.loadtest.targets import Answer, Target, encoder
from serving.processes.addresses import split_url

Check = Callable[[str, Answer], bool]  # text, answer → is it correct
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
    """Send `make_plan(texts, load)`; a cancelled run stops sending and returns the result so far."""
    plan = make_plan(texts, load)
    encode = encoder(target)
    requests = [encode(text, number) for number, text in enumerate(plan.texts)]
    wire = Wire(resolve(target.url), requests, plan.at_s.tolist(), target.read)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    sender = Sender(wire, load, give_up, on_second or (lambda *_: None))
    with no_garbage_collection():
        outcomes = await sender.run()
    wrong = None
    if check:
        wrong = [a is not None and not check(text, a) for text, a in zip(plan.texts, outcomes.answers, strict=False)]
    return make_result(plan, outcomes, load, names=(target.name, target.url), started_at=started_at, wrong=wrong)


def run_load(
    target: Target,
    texts: Sequence[str],
    load: Load,
    *,
    check: Check | None = None,
    give_up: GiveUp | None = None,
    on_second: Progress | None = None,
) -> Result:
    """Call `run` under uvloop. Ctrl-C stops sending and returns the result so far; a second Ctrl-C aborts."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(target, texts, load, check=check, give_up=give_up, on_second=on_second))


def expect_labels(labels: Mapping[str, str]) -> Check:
    """Return a check against expected labels; texts without one are not checked."""
    return lambda text, answer: labels.get(text, answer.label) == answer.label


def resolve(url: str) -> tuple[str, int]:
    """Return IP address (IPv4 if there is one) and port of a URL; raises `InputError` for an unknown host name."""
    parts = split_url(url, "http")
    try:
        addresses = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(url, f"unknown host name: {error.strerror}", "check the address") from None
    host, port = min(addresses, key=lambda address: address[0] != socket.AF_INET)[4][:2]
    return str(host), int(port)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: a full collection would delay sends, and a run makes few cycles."""
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
