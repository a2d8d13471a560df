"""An intruder at every door while a normal caller keeps asking: floods, slow requests, forged labels and webhooks.

The normal caller is answered, and right; what is forged writes nothing; memory stays bounded; every refusal is counted.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from tests.faults import memory, traffic
from tests.faults.alert_environment import webhook
from tests.faults.attack_plan import FLOOD, Amount, plan
from tests.faults.attacks import MIB, Attack, attack
from tests.faults.intruder_environment import (
    Targets,
    call,
    counted_refusals,
    leaks,
    pids,
    raw_controls,
    stored_rows,
)
from tests.faults.open_load import Part, wrong_answers
from tests.faults.running_stack import RunningStack, beside
from tests.faults.sampled import sampled
from tests.faults.scorecard import Outcome, Promise
from tests.faults.timeline import Mark, Timeline

NAMED_S = 2.0  # a shorter attack is only shaded in the picture
GATEWAY_MIB, ALERTS_MIB = 128.0, 64.0  # an intruder may make them grow by so much


class Figures(NamedTuple):
    """What the verdict depends on."""

    requests: int  # of the normal caller
    failed: int
    wrong: int
    attempts: int
    unexpected: int  # attempts that ended as none may
    uncounted: int  # refusals of the gateway that its metrics do not have
    forged_rows: int  # of labels, jobs, alerts and messages
    past_the_rate: int  # answers beyond what one caller may have
    wrong_for_clients: int  # KServe clients and h2c: other answers than offline
    leaks: int  # places that hold a secret
    raw_controls: int  # logs with what a terminal obeys
    replaced: int  # processes that are not those of the beginning
    gateway_mib: float  # its peak above the level before
    alerts_mib: float  # receiver and inbox together


def judge(figures: Figures) -> list[Promise]:
    """What has to hold."""
    return [
        Promise("requests of the normal caller", figures.requests, "requests", at_least=1),
        Promise("refused or failed of these", figures.failed, "requests", at_most=0),
        Promise("wrong answers to these", figures.wrong, "answers", at_most=0),
        Promise("attempts of the intruder", figures.attempts, "attempts", at_least=1),
        Promise("that ended neither refused nor harmless", figures.unexpected, "attempts", at_most=0),
        Promise("refusals that were not counted", figures.uncounted, "refusals", at_most=0),
        Promise("rows that forged calls have written", figures.forged_rows, "rows", at_most=0),
        Promise("answers past the rate limit", figures.past_the_rate, "answers", at_most=0),
        Promise("wrong answers to foreign clients, or after them", figures.wrong_for_clients, "answers", at_most=0),
        Promise("files and arguments that hold a secret", figures.leaks, "places", at_most=0),
        Promise("logs with characters that a terminal obeys", figures.raw_controls, "logs", at_most=0),
        Promise("processes that ended or were replaced", figures.replaced, "processes", at_most=0),
        Promise("the gateway grows at most by", figures.gateway_mib, "MiB", at_most=GATEWAY_MIB),
        Promise("receiver and inbox grow at most by", figures.alerts_mib, "MiB", at_most=ALERTS_MIB),
    ]


def run(running: RunningStack, targets: Targets, services: Sequence[psutil.Process], amount: Amount) -> tuple[Outcome, Timeline]:
    """The drill on a stack with tokens; the receiver and the inbox are attacked if they run."""
    genuine = give_labels(targets, amount.labels)
    acknowledge(targets)
    before, rows, ran = counted_refusals(targets), stored_rows(targets.installation), pids(running.process)
    attacks: list[Attack] = []
    said: list[tuple[str, int, str]] = []
    with (
        memory.watching(running.process, 0.25) as samples,
        sampled(lambda: sum(process.memory_info().rss for process in services) / MIB, 0.25) as alerts_mib,
    ):
        with beside(lambda _stop: intrude(running, targets, amount, genuine, attacks, said)) as is_over:
            parts = traffic.stretches(is_over, Part(amount.normal_per_s, amount.stretch_s, 0.2))
            folder, headers = running.setting.scratch / "intruder-said", {"authorization": f"Bearer {targets.tokens['shop']}"}
            sent = traffic.load(running.installation.url, running.setting.texts, parts, folder, lambda _s: None, headers=headers)
        time.sleep(0.5)
    wrong, told = traffic.wrong(sent, running.offline, running.atol, lambda _share: None)
    foreign = wrong_answers(said, running.offline, running.atol)
    counted, now = counted_refusals(targets), stored_rows(targets.installation)
    figures = Figures(
        requests=len(sent.status),
        failed=int((~sent.ok).sum()),
        wrong=wrong,
        attempts=sum(entry.answers.total() for entry in attacks),
        unexpected=sum(entry.unexpected for entry in attacks),
        uncounted=max(0, round(sum(entry.refused for entry in attacks if is_of_gateway(entry)) - (counted.whole - before.whole))),
        forged_rows=sum(max(0, now[name] - rows[name]) for name in rows),
        past_the_rate=past_the_rate(attacks, running.installation.params.gateway.rate_limit_per_s),
        wrong_for_clients=len(foreign),
        leaks=len(held := leaks(targets, running.process)),
        raw_controls=len(raw := raw_controls(targets.installation)),
        replaced=sum(now_pids != ran[name] for name, now_pids in pids(running.process).items()),
        gateway_mib=max(sample.gateway for sample in samples) - samples[0].gateway,
        alerts_mib=max(alerts_mib) - alerts_mib[0],
    )
    table = [
        f"{entry.name}: {', '.join(f'{count} x {answer}' for answer, count in sorted(entry.answers.items()))}"
        for entry in attacks
    ]
    notes = [
        *table,
        *told,
        *foreign[:5],
        *(f"a secret in {place}" for place in held),
        *(f"control characters in {name}" for name in raw),
    ]
    counts = {entry.name: dict(entry.answers) for entry in attacks}
    outcome = Outcome("intruder", "an intruder at every door", judge(figures), notes, figures._asdict() | {"attacks": counts})
    marks = [
        Mark(entry.name if entry.until_s - entry.since_s >= NAMED_S else "", entry.since_s, entry.until_s) for entry in attacks
    ]
    return outcome, Timeline("A normal caller while an intruder attacks", sent, samples, marks, [])


def is_of_gateway(entry: Attack) -> bool:
    return entry.name.startswith("gateway:")


def past_the_rate(attacks: Sequence[Attack], per_s: float) -> int:
    """Return how many answers the flood got beyond a full bucket and what flowed into it meanwhile; 0 without a limit."""
    if not per_s:
        return 0
    (flood,) = [entry for entry in attacks if entry.name == FLOOD]
    return max(0, flood.answers["200"] - round(per_s + per_s * (flood.until_s - flood.since_s)) - 1)


def give_labels(targets: Targets, count: int) -> list[dict[str, str]]:
    """Let a person label some answers; return what was sent."""
    token = targets.tokens["anna"]
    reply = call(targets.gateway, "/v1/predict", token, texts=[f"my parcel number {n} has not arrived" for n in range(count)])
    given = [{"id": entry["id"], "label": entry["label"]} for entry in reply.content["predictions"]]
    for label in given:
        while (reply := call(targets.gateway, "/v1/feedback", token, **label)).status == 429:  # labels have the rate limit too
            time.sleep(0.1)
        assert reply.status < 300, reply
    return given


def acknowledge(targets: Targets) -> None:
    """Let Alertmanager bring one alert to each service."""
    body = json.loads(webhook(1))
    for port, path in ((targets.receiver, "/v1/alerts"), (targets.inbox, "/alerts")):
        assert not port or call(port, path, targets.webhook_token, **body).status == 204


def intrude(
    running: RunningStack,
    targets: Targets,
    amount: Amount,
    genuine: Sequence[dict[str, str]],
    attacks: list[Attack],
    said: list[tuple[str, int, str]],
) -> None:
    """Attack, one kind after the other."""
    for name, allowed, attempts in plan(targets, amount, genuine):
        running.say(name)
        attacks.append(asyncio.run(attack(name, allowed, attempts())))
    running.say("foreign clients")
    since_s = time.monotonic()
    answers = foreign_clients(targets, amount.rounds, said)
    attacks.append(Attack("Triton: single outputs, then the gateway", answers, frozenset({"200"}), since_s, time.monotonic()))


def foreign_clients(targets: Targets, rounds: int, said: list[tuple[str, int, str]]) -> Counter[str]:
    """Ask Triton for one output of a text, then the gateway for its answer to the same text; collect the answers."""
    answers: Counter[str] = Counter()
    for number, outputs in enumerate((["label"], ["probabilities"], ["label", "probabilities"], ["pieces"], ["label"]) * rounds):
        text = f"the lamp of order {number} does not light up"
        tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        direct = call(targets.triton, "/v2/models/intent-1/infer", inputs=[tensor], outputs=[{"name": name} for name in outputs])
        reply = call(targets.gateway, "/v1/predict", targets.tokens["curious"], text=text)
        answers += Counter([str(direct.status), str(reply.status)])
        predictions = reply.content.get("predictions", [])
        said += [(text, entry["version"], f"{entry['label']} {entry['confidence']}") for entry in predictions]
    return answers
