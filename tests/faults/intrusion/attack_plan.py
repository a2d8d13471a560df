"""Plan the intruder's attacks: the name of each, the allowed ends of its attempts, and the call that starts it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from tests.faults.intrusion.attacks import (
    BOTNET,
    DEEP,
    MIB,
    as_json,
    at_once,
    attempt,
    endless_chunks,
    head_flood,
    in_turn,
    large_body,
    request,
    slow_head,
)
from tests.faults.intrusion.environment import Targets
from tests.faults.intrusion.payloads import (
    administration,
    broken_requests,
    clients,
    cross_site,
    forged_labels,
    hostile_requests,
    unauthorised,
)
from tests.faults.watching.alert_environment import webhook

FLOOD = "gateway: flood with invented addresses"
PlannedAttack = tuple[str, str, Callable[[], Awaitable[Sequence[str]]]]  # name, allowed ends, start


class Amount(NamedTuple):
    """Say how much is done."""

    normal_per_s: float  # rate of the normal caller
    connections: int  # concurrent half-open connections; an eighth of it slow ones
    heads_mib: int  # size of each of `floods` heads, and of each body that is too large
    floods: int
    labels: int  # given by a person
    replays: int  # of each label, and of one webhook
    requests: int  # of the rate flood
    rounds: int  # of KServe clients
    is_slow: bool  # also attacks that only a time limit ends
    stretch_s: float  # of the normal load, at least two: the load reports its time once a second


def plan(targets: Targets, amount: Amount, genuine: Sequence[dict[str, str]]) -> Iterator[PlannedAttack]:
    """Yield each attack's name, its allowed ends, and the call that starts it."""
    gateway, tokens = targets.gateway, targets.tokens
    curious, anna = tokens["curious"], tokens["anna"]
    text = as_json(text="where is my parcel?")
    yield (
        "gateway: endless heads",
        "431 closed",
        lambda: at_once(gateway, (head_flood(amount.heads_mib * MIB) for _ in range(amount.floods))),
    )
    many_headers = request("/v1/routes", None, *(f"X-{n}: 1" for n in range(500)), token=curious)
    yield "gateway: five hundred headers", "431", lambda: in_turn(gateway, [many_headers] * 20)
    yield "gateway: broken requests", "400 405 closed", lambda: in_turn(gateway, broken_requests())
    if amount.is_slow:
        half_head = [b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"]
        yield (
            "gateway: half-open connections",
            "408 503 closed",
            lambda: at_once(gateway, (half_head for _ in range(amount.connections))),
        )
        yield (
            "gateway: slow heads",
            "408 closed",
            lambda: at_once(gateway, (slow_head(20) for _ in range(amount.connections // 8)), pause_s=1.0),
        )
        body = [
            request("/v1/predict", None, "Content-Length: 500", "Content-Type: application/json", method="POST", token=curious),
            b"{",
        ]
        yield "gateway: slow bodies", "408 closed", lambda: at_once(gateway, (body for _ in range(amount.connections // 8)))
    yield (
        "gateway: bodies too large or too deep",
        "400 413 422 closed",
        lambda: oversized(gateway, "/v1/predict", curious, amount),
    )
    yield "gateway: foreign pages", "400 403 415", lambda: in_turn(gateway, cross_site("/v1/predict", text, curious))
    label = as_json(**genuine[0])
    yield "gateway: foreign pages label", "400 403 415", lambda: in_turn(gateway, cross_site("/v1/feedback", label, anna))
    yield "gateway: labels without the right", "401 403", lambda: in_turn(gateway, unauthorised("/v1/feedback", label, tokens))
    yield "gateway: labels on invented answers", "404 422", lambda: in_turn(gateway, forged_labels(genuine, targets.forgers))
    replays = [request("/v1/feedback", as_json(**entry), token=anna) for entry in genuine] * amount.replays
    yield "gateway: labels replayed", "200 201 204 429", lambda: in_turn(gateway, replays)
    yield "gateway: others' jobs", "401 403 404", lambda: in_turn(gateway, [request("/v1/jobs/1", token=curious)] * 5)
    yield "gateway: hostile texts", "200 400 413 422", lambda: in_turn(gateway, hostile_requests(curious))
    yield "gateway: clients of other languages", "200 400 415", lambda: in_turn(gateway, clients(text, curious))
    flood = [
        request(
            "/v1/predict",
            text,
            f"X-Forwarded-For: 10.0.{n % 250}.{n // 250}",
            f"Forwarded: for=10.9.9.{n % 250}",
            token=tokens["intruder"],
        )
        for n in range(amount.requests)
    ]
    yield FLOOD, "200 429 503", lambda: in_turn(gateway, flood)
    yield "Triton: administration", "400 401 403 404 405", lambda: in_turn(targets.triton, administration(1))
    for port, path, name in ((targets.receiver, "/v1/alerts", "receiver"), (targets.inbox, "/alerts", "inbox")):
        if port:
            yield from against_alert_service(targets, amount, port, path, name)


def against_alert_service(targets: Targets, amount: Amount, port: int, path: str, name: str) -> Iterator[PlannedAttack]:
    """Forge and replay webhooks."""
    body, token = webhook(2), targets.webhook_token
    if name == "receiver":  # the inbox serves only its own machine and needs no token
        yield f"{name}: forged webhooks", "401", lambda: in_turn(port, unauthorised(path, body, targets.tokens))
    yield f"{name}: foreign pages", "400 403 415", lambda: in_turn(port, cross_site(path, body, token))
    yield f"{name}: bodies too large or too deep", "400 413 422 closed", lambda: oversized(port, path, token, amount)
    yield f"{name}: endless heads", "431 closed", lambda: at_once(port, (head_flood(amount.heads_mib * MIB) for _ in range(4)))
    yield f"{name}: webhook replayed", "204", lambda: in_turn(port, [request(path, webhook(1), token=token)] * amount.replays)
    if amount.is_slow:
        slow = [request(path, None, "Content-Length: 500", "Content-Type: application/json", method="POST", token=token), b"{"]
        yield f"{name}: slow bodies", "408 503 closed", lambda: at_once(port, (slow for _ in range(50)))


async def oversized(port: int, path: str, token: str, amount: Amount) -> list[str]:
    """Send bodies that are too large, with and without their length, and JSON that is too deep."""
    size = amount.heads_mib * MIB
    deep = [b'{"text":' + b"[" * DEEP + b"]" * DEEP + b"}", b'{"a":' * DEEP + b"1" + b"}" * DEEP]
    large = (large_body(path, size, token), endless_chunks(path, size, token))
    return [
        *await in_turn(port, [request(path, body, token=token) for body in deep]),
        *await asyncio.gather(*(attempt(port, parts, source=BOTNET) for parts in large)),
    ]
