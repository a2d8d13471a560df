"""Release one mutant on a real stack: the offline gate, the load check, the shadow and the canary, by the rules of real releases.

Traffic, Triton, gateway, counts, prediction log and verdicts are real. Labels are given at once, and a look follows a few
requests instead of a second of time.
"""

import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import psutil

from monitoring.release.asked_texts import ReleaseLabels
from monitoring.release.copied_texts import CopiedTexts
from monitoring.release.pairs import new_outcomes
from monitoring.release.verdicts.guardrails import ArmLook, Look, broken_guardrail, first_guardrails, update_guardrails
from monitoring.release.verdicts.ladder import Move, Standing, decide_move
from monitoring.release.verdicts.shadow import PairedEvidence, describe_shadow, judge_shadow, update_shadow
from monitoring.retrain.gate.candidate import examine
from pipeline.errors import EvergreenError
from serving.arm_counts import ArmTotals, bucket_ms, read_counts
from serving.prediction_log.writer import log_url
from serving.release.live.roll_back import roll_back
from serving.release.live.swap import route
from serving.release.manifest import model_name, repository
from serving.release.publish import publish
from serving.release.routing import Routes, choose_arm, read_routes
from state.database import open_state
from tests.faults.stack import Installation, gateway_routes, wait_until
from tests.faults.zoo.customers import Customers, Reply
from tests.faults.zoo.habitat import Habitat
from tests.faults.zoo.mutants import Mutant

Where = Literal["gate", "load check", "shadow", "canary", "released", "no verdict"]
REQUESTS = 24  # between two looks
SETTLED_S, MOST_S = 0.5, 15.0  # without a new pair the copies of a look have all been answered
FEEDBACK_EVERY = 10  # one of so many customers tells the right label without being asked


class Ending(NamedTuple):
    """Where a mutant was stopped, by what, and what it had cost by then."""

    where: Where
    by: str  # the guardrail, test or check
    why: str  # for people
    compared: int = 0  # texts that both versions had answered
    answered: int = 0  # texts of callers that the challenger had to answer
    labels: int = 0  # that people were asked for
    harmed: int = 0  # callers' texts answered wrongly where the champion is right, not at all, or slower than the baseline's P95
    seconds: float = 0.0


class Enclosure(NamedTuple):
    """The stack into which mutants are released; version 1 is the champion."""

    habitat: Habitat
    installation: Installation
    dvc_lock: Path
    process: psutil.Process  # `evergreen serve`


def try_mutant(enclosure: Enclosure, mutant: Mutant, folder: Path) -> Ending:
    """Build the mutant in this folder, and release it until something stops it."""
    began = time.monotonic()
    folder.mkdir(parents=True)
    package = mutant.build(enclosure.habitat, folder)
    params, home = enclosure.installation.params, enclosure.installation.home
    champion = enclosure.installation.packages[1]
    verdict = examine(package, champion, split=folder / "split", feedback=folder / "feedback", params=params).verdict
    if not verdict.passed:
        return Ending("gate", "gate", verdict.reasons[0], seconds=time.monotonic() - began)
    version = publish(package, enclosure.dvc_lock, params.publish.name, home).release.version
    if mutant.alter is not None:
        mutant.alter(repository(home) / model_name(version))
    try:
        route(params, home, challenger_weight=0.0, shadow_share=params.release.shadow_share, announce=lambda _line: None)
    except EvergreenError as error:
        return Ending("load check", "load check", str(error), seconds=time.monotonic() - began)
    trial = Trial(enclosure, version)
    try:
        return trial.run()._replace(seconds=time.monotonic() - began)
    finally:
        roll_back(version, params, home, lambda _line: None)


class Trial:
    """A version that has been loaded and gets copies, until the rules of releases promote it or take it back."""

    def __init__(self, enclosure: Enclosure, version: int) -> None:
        installation, self._habitat = enclosure.installation, enclosure.habitat
        self._enclosure, self._installation, self._version = enclosure, installation, version
        self._params, self._settings = installation.params, installation.params.release
        self._customers = Customers(installation.url, self._habitat.texts)
        url = log_url(self._params.log, installation.home)
        self._copies = CopiedTexts(url, champion=1, challenger=version, since=time.time(), settings=self._params.monitor)
        self._right = self._habitat.right()
        self._labels: dict[str, str] = {}  # right ones, by prediction id
        self._position = self._asked = 0
        self._shadow, self._guardrails = PairedEvidence(), first_guardrails(PairedEvidence(), self._settings)
        self._standing, self._at_rung = Standing("shadow"), (0, 0)
        self._totals: dict[str, ArmTotals] = {}
        self._judged = {"challenger": (0, 0), "baseline": (0, 0)}
        self._first_memory: float | None = None
        self._compared = self._differing = self._answered = self._harmed = 0

    def run(self) -> Ending:
        """Send texts and look, until a move ends the release or no text is left."""
        self._routes = self._follow()
        while replies := self._customers.send(REQUESTS):
            self._note(replies)
            self._wait_for_copies()
            move = self._look()
            if move in ("refuse", "roll_back", "promote"):
                return self._ending(move)
            if move in ("start_canary", "step_up"):
                self._climb(move)
        return self._ending("wait")

    def _follow(self) -> Routes:
        """Return the routes, once the gateway follows them."""
        with open_state(self._installation.home) as engine, engine.begin() as connection:
            routes = read_routes(connection)
        wait_until(lambda: gateway_routes(self._installation)["revision"] == routes.revision, 30)
        return routes

    def _note(self, replies: list[Reply]) -> None:
        """Keep the right label of each answer, and count the harm that callers had."""
        self._judged = {"challenger": (0, 0), "baseline": (0, 0)}
        for reply in replies:
            label = self._habitat.texts[reply.number].label
            self._labels[reply.id] = label
            chosen = choose_arm(self._routes, reply.unit)
            arm = chosen.arm if chosen else "champion"
            if arm == "challenger":
                self._answered += 1
                self._harmed += reply.label != label and bool(self._right[reply.number])
            elif not reply.id:
                self._harmed += 1
            if arm in self._judged and reply.id and reply.number % FEEDBACK_EVERY == 0:
                right, every = self._judged[arm]
                self._judged[arm] = right + (reply.label == label), every + 1

    def _wait_for_copies(self) -> None:
        """Wait until the log and the counts have what was sent."""
        began = grown = time.monotonic()
        seen = -1
        while time.monotonic() - grown < SETTLED_S and time.monotonic() - began < MOST_S:
            count = len(self._copies.read())
            if count != seen:
                seen, grown = count, time.monotonic()
            time.sleep(0.1)

    def _look(self) -> Move:
        """Add what is new to the evidence, and decide."""
        texts = self._copies.read()
        said = ReleaseLabels(self._labels, {}, frozenset())
        new = new_outcomes(texts, self._position, said)
        self._position += new.texts
        self._asked += new.labelled
        self._shadow = update_shadow(self._shadow, new.outcomes, self._settings)
        broken = None
        if self._standing.stage == "canary":
            self._guardrails = update_guardrails(self._guardrails, self._new_look(), self._settings)
            broken = broken_guardrail(self._guardrails, self._settings)
        self._broken = broken
        return decide_move(self._standing, judge_shadow(self._shadow, self._settings), broken, self._settings, wish="none")

    def _new_look(self) -> Look:
        texts = self._copies.read()
        compared, differing = len(texts), sum(text.differs for text in texts)
        with open_state(self._installation.home) as engine, engine.begin() as connection:
            totals = dict(read_counts(connection, self._routes.salt))
        new = {arm: totals[arm].since(self._totals.get(arm, ArmTotals())) for arm in ("challenger", "baseline")}
        self._totals = dict(totals)
        self._standing = self._standing._replace(
            answered=totals["challenger"].answered + totals["challenger"].failed - self._at_rung[0],
            baseline_answered=totals["baseline"].answered - self._at_rung[1],
        )
        memory = self._memory()
        self._first_memory = self._first_memory or memory
        look = Look(
            *(ArmLook(*new[arm]) for arm in ("challenger", "baseline")),
            compared=compared - self._compared,
            differing=differing - self._differing,
            judged=self._judged["challenger"],
            baseline_judged=self._judged["baseline"],
            memory=memory,
            first_memory=self._first_memory,
        )
        self._compared, self._differing = compared, differing
        return look

    def _memory(self) -> float | None:
        """Return the resident bytes of the challenger's processes."""
        mark = f"/{model_name(self._version)}/"
        sizes = []
        for child in self._enclosure.process.children(recursive=True):
            try:
                if any(mark in part for part in child.cmdline()):
                    sizes.append(child.memory_info().rss)
            except psutil.Error:
                continue
        return float(sum(sizes)) if sizes else None

    def _climb(self, move: Move) -> None:
        """Give the challenger the share of the next step."""
        if move == "start_canary":
            self._guardrails = first_guardrails(self._shadow, self._settings)
            texts = self._copies.read()
            self._compared, self._differing = len(texts), sum(text.differs for text in texts)
            self._standing = Standing("canary")
        else:
            self._at_rung = (
                self._totals["challenger"].answered + self._totals["challenger"].failed,
                self._totals["baseline"].answered,
            )
            self._standing = Standing("canary", self._standing.rung + 1)
        weight, share = self._settings.shares[self._standing.rung], self._settings.shadow_share
        route(self._params, self._installation.home, challenger_weight=weight, shadow_share=share, announce=lambda _line: None)
        self._routes = self._follow()

    def _ending(self, move: Move) -> Ending:
        shadow = describe_shadow(self._shadow)
        where: Where = self._standing.stage
        by = self._broken or "worse"
        why = f"{shadow['estimate']:+.3f} [{shadow['lower']:+.3f}, {shadow['upper']:+.3f}] on {self._shadow.pairs} texts"
        if move == "promote":
            where, by = "released", judge_shadow(self._shadow, self._settings)
        elif move == "wait":
            where, by = "no verdict", "no text left"
        slow = self._slow_answers() if by == "latency" else 0
        return Ending(where, by, why, self._shadow.pairs, self._answered, self._asked, self._harmed + slow)

    def _slow_answers(self) -> int:
        """Return how many more of the challenger's answers than 5 % were slower than the baseline's 95th percentile."""
        challenger, baseline = (self._totals.get(arm, ArmTotals()).latencies for arm in ("challenger", "baseline"))
        if not challenger or not baseline:
            return 0
        waits = np.repeat([bucket_ms(bucket) for bucket in baseline], list(baseline.values()))
        limit = float(np.quantile(waits, 0.95))
        slow = sum(answers for bucket, answers in challenger.items() if bucket_ms(bucket) > limit)
        return max(0, round(slow - 0.05 * sum(challenger.values())))
