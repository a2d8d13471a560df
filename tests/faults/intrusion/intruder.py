"""Attack every service with floods, slow requests, forged labels and webhooks, while a normal caller keeps sending requests.

The normal caller gets right answers; forged calls write nothing; memory stays bounded; every refusal is counted.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from tests.faults import memory, traffic
from tests.faults.intrusion.attack_plan import FLOOD, Amount, plan
from tests.faults.intrusion.attacks import MIB, Attack, attack
from tests.faults.intrusion.environment import (
    Targets,
    call,
    leaks,
    pids,
    raw_controls,
    read_refusals,
    stored_rows,
)
from tests.faults.open_load import Part, wrong_answers
from tests.faults.running_stack import RunningStack, beside
from tests.faults.sampled import sampled
from tests.faults.scorecard import Outcome, Promise
from tests.faults.timeline import Mark, Timeline
from tests.faults.watching.alert_environment import webhook

ForeignAnswer = tuple[str, int, str]  # text, version, label and confidence

NAMED_S = 2.0  # a shorter attack has no name in the picture
GATEWAY_MIB, ALERTS_MIB = 128.0, 64.0  # growth that an intruder may cause


class Figures(NamedTuple):
    """Hold the figures that decide the verdict."""

    requests: int  # of the normal caller
    failed: int
    wrong: int
    attempts: int
    unexpected: int  # attempts that ended in a way that is not allowed
    uncounted: int  # refusals of the gateway that its metrics lack
    forged_rows: int  # of labels, jobs, alerts and messages
    past_the_rate: int  # answers beyond a caller's rate limit
    wrong_for_clients: int  # answers to KServe clients and h2c that differ from the offline ones
    leaks: int  # places that contain a secret
    raw_controls: int  # logs with control characters
    replaced: int  # processes that were replaced during the drill
    gateway_mib: float  # its peak above the level before the attacks
    alerts_mib: float  # receiver and inbox together


def judge(figures: Figures) -> list[Promise]:
    """Return the drill's promises."""
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
    """Run the drill on a stack with tokens; the receiver and the inbox are attacked if they run."""
    genuine = give_labels(targets, amount.labels)
    acknowledge(targets)
    refusals_before, rows_before, pids_before = read_refusals(targets), stored_rows(targets.installation), pids(running.process)
    attacks: list[Attack] = []
    foreign_answers: list[ForeignAnswer] = []
    with (
        memory.memory_sampled(running.process, 0.25) as samples,
        sampled(lambda: sum(process.memory_info().rss for process in services) / MIB, 0.25) as alerts_mib,
    ):
        with beside(lambda _stop: intrude(running, targets, amount, genuine, attacks, foreign_answers)) as is_over:
            parts = traffic.repeat_until(is_over, Part(amount.normal_per_s, amount.stretch_s, 0.2))
            folder, headers = running.setting.scratch / "intruder-answers", {"authorization": f"Bearer {targets.tokens['shop']}"}
            sent = traffic.load(running.installation.url, running.setting.texts, parts, folder, lambda _s: None, headers=headers)
        time.sleep(0.5)
    wrong, wrong_notes = traffic.find_wrong(sent, running.offline, running.atol, lambda _share: None)
    wrong_foreign = wrong_answers(foreign_answers, running.offline, running.atol)
    refusals, rows_now = read_refusals(targets), stored_rows(targets.installation)
    refused = sum(result.refused for result in attacks if is_of_gateway(result))
    figures = Figures(
        requests=len(sent.status),
        failed=int((~sent.ok).sum()),
        wrong=wrong,
        attempts=sum(result.answers.total() for result in attacks),
        unexpected=sum(result.unexpected for result in attacks),
        uncounted=max(0, round(refused - (refusals.whole - refusals_before.whole))),
        forged_rows=sum(max(0, rows_now[name] - rows_before[name]) for name in rows_before),
        past_the_rate=past_the_rate(attacks, running.installation.params.gateway.rate_limit_per_s),
        wrong_for_clients=len(wrong_foreign),
        leaks=len(leaked := leaks(targets, running.process)),
        raw_controls=len(raw := raw_controls(targets.installation)),
        replaced=sum(pids_now != pids_before[name] for name, pids_now in pids(running.process).items()),
        gateway_mib=max(sample.gateway for sample in samples) - samples[0].gateway,
        alerts_mib=max(alerts_mib) - alerts_mib[0],
    )
    attack_notes = [
        f"{result.name}: {', '.join(f'{count} x {answer}' for answer, count in sorted(result.answers.items()))}"
        for result in attacks
    ]
    notes = [
        *attack_notes,
        *wrong_notes,
        *wrong_foreign[:5],
        *(f"a secret in {place}" for place in leaked),
        *(f"control characters in {name}" for name in raw),
    ]
    counts = {result.name: dict(result.answers) for result in attacks}
    outcome = Outcome("intruder", "an intruder at every door", judge(figures), notes, figures._asdict() | {"attacks": counts})
    marks = [
        Mark(result.name if result.until_s - result.since_s >= NAMED_S else "", result.since_s, result.until_s)
        for result in attacks
    ]
    return outcome, Timeline("A normal caller while an intruder attacks", sent, samples, marks, [])


def is_of_gateway(result: Attack) -> bool:
    return result.name.startswith("gateway:")


def past_the_rate(attacks: Sequence[Attack], per_s: float) -> int:
    """Return how many answers the flood got beyond a full bucket and its refill; 0 without a limit."""
    if not per_s:
        return 0
    (flood,) = [entry for entry in attacks if entry.name == FLOOD]
    return max(0, flood.answers["200"] - round(per_s + per_s * (flood.until_s - flood.since_s)) - 1)


def give_labels(targets: Targets, count: int) -> list[dict[str, str]]:
    """Label some answers as a person does; return the labels."""
    token = targets.tokens["anna"]
    reply = call(targets.gateway, "/v1/predict", token, texts=[f"my parcel number {n} has not arrived" for n in range(count)])
    labels = [{"id": entry["id"], "label": entry["label"]} for entry in reply.content["predictions"]]
    for label in labels:
        while (reply := call(targets.gateway, "/v1/feedback", token, **label)).status == 429:  # labels share the rate limit
            time.sleep(0.1)
        assert reply.status < 300, reply
    return labels


def acknowledge(targets: Targets) -> None:
    """Send one genuine alert to each service."""
    body = json.loads(webhook(1))
    for port, path in ((targets.receiver, "/v1/alerts"), (targets.inbox, "/alerts")):
        assert not port or call(port, path, targets.webhook_token, **body).status == 204


def intrude(
    running: RunningStack,
    targets: Targets,
    amount: Amount,
    genuine: Sequence[dict[str, str]],
    attacks: list[Attack],
    foreign_answers: list[ForeignAnswer],
) -> None:
    """Run the attacks in turn."""
    for name, allowed, attempts in plan(targets, amount, genuine):
        running.report(name)
        attacks.append(asyncio.run(attack(name, allowed, attempts())))
    running.report("foreign clients")
    since_s = time.monotonic()
    answers = foreign_clients(targets, amount.rounds, foreign_answers)
    attacks.append(Attack("Triton: single outputs, then the gateway", answers, frozenset({"200"}), since_s, time.monotonic()))


def foreign_clients(targets: Targets, rounds: int, foreign_answers: list[ForeignAnswer]) -> Counter[str]:
    """Send texts to Triton, each for some outputs, then to the gateway; collect the answers."""
    statuses: Counter[str] = Counter()
    for number, outputs in enumerate((["label"], ["probabilities"], ["label", "probabilities"], ["pieces"], ["label"]) * rounds):
        text = f"the lamp of order {number} does not light up"
        tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        direct = call(targets.triton, "/v2/models/intent-1/infer", inputs=[tensor], outputs=[{"name": name} for name in outputs])
        reply = call(targets.gateway, "/v1/predict", targets.tokens["curious"], text=text)
        statuses += Counter([str(direct.status), str(reply.status)])
        predictions = reply.content.get("predictions", [])
        foreign_answers += [(text, entry["version"], f"{entry['label']} {entry['confidence']}") for entry in predictions]
    return statuses
