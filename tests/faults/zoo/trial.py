"""Release one mutant on a real stack: the offline gate, publish, and the gradual release of a real retrain.

Gate, load check, Triton, gateway, counts, prediction log, labels and the release's rules are those of production. In place of a
second's wait between two looks, customers send some texts, and people label at once what the release asks for.
"""

import time
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import psutil

from monitoring.release.asked_texts import read_release_labels, waiting_texts
from monitoring.release.copied_texts import CopiedTexts
from monitoring.release.evidence import ReleaseEvidence
from monitoring.release.gradual import GradualRelease, ReleaseAccess
from monitoring.release.looks import LogWatch
from monitoring.release.moves import LocalServing
from monitoring.release.runs import ReleaseRun, Stage
from monitoring.release.verdicts.shadow import describe_shadow, judge_shadow
from monitoring.retrain.gate.candidate import examine
from pipeline.data.records import text_id
from serving.arm_counts import ArmTotals, bucket_ms
from serving.prediction_log.writer import log_url
from serving.release.manifest import model_name, repository
from serving.release.publish import publish
from serving.release.routing import read_routes
from state.database import open_state, read_only
from state.tables import queue_actions
from tests.faults.stack import Installation, gateway_routes, wait_until
from tests.faults.zoo.customers import Customers, Reply
from tests.faults.zoo.habitat import Habitat
from tests.faults.zoo.mutants import Mutant

Where = Literal["gate", "load check", "shadow", "canary", "released", "no verdict"]
STAGES: tuple[Stage, ...] = ("shadow", "canary")  # a promotion is left out: the champion stays for the next mutant
REQUESTS = 24  # between two looks
SETTLED_S, MOST_S = 0.5, 15.0  # without a new pair, the copies of a look have all been answered
LABELLER = "local"  # of a home without tokens
JUDGED_EVERY = 10  # one of so many customers tells the right label without being asked


class Ending(NamedTuple):
    """Where a mutant was stopped, by what, and what it had cost by then."""

    where: Where
    by: str  # the check, test or guardrail
    why: str  # for people
    compared: int = 0  # texts that both versions had answered
    answered: int = 0  # texts of callers that the challenger had to answer
    labels: int = 0  # that people were asked for
    harmed: int = 0  # callers' texts answered wrongly where the champion is right, not at all, or (latency) too late
    seconds: float = 0.0

    @property
    def is_stopped(self) -> bool:
        return self.where not in ("released", "no verdict")


class Enclosure(NamedTuple):
    """The stack into which mutants are released; version 1 is the champion."""

    habitat: Habitat
    installation: Installation
    dvc_lock: Path
    process: psutil.Process  # `evergreen serve`


class NoTextLeftError(Exception):
    """The customers have sent everything."""


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
    return Trial(enclosure, version, mutant.lists).run()._replace(seconds=time.monotonic() - began)


class Trial:
    """The gradual release of one published version, with its customers and the people who label."""

    def __init__(self, enclosure: Enclosure, version: int, lists: int) -> None:
        installation, self._habitat, self._version = enclosure.installation, enclosure.habitat, version
        self._installation, self._params, self._home = installation, installation.params, installation.home
        self._customers = Customers(installation.url, self._habitat.texts, lists)
        url = log_url(self._params.log, self._home)
        self._copies = CopiedTexts(url, champion=1, challenger=version, since=time.time(), settings=self._params.monitor)
        self._right = self._habitat.right()
        self._labels: dict[str, str] = {}  # right ones, by prediction id
        self._harmed = 0
        self._began_at = time.time()

    def run(self) -> Ending:
        """Work on the release as its controller does, until it ends or no text is left."""
        serving = LocalServing(self._params, self._home, lambda _line: None)
        with open_state(self._home) as engine:
            self._engine = engine
            access = ReleaseAccess(engine.begin, partial(read_only, engine), lambda _connection: None)
            release = GradualRelease(
                access,
                serving,
                lambda run: LogWatch(self._params, self._home, run),
                self._params.release,
                clock=time.time,
                wait=self._let_a_second_pass,
            )
            begun = release.begin(self._version, self._version)
            assert begun is not None
            run, is_over = begun, False
            try:
                for stage in STAGES:
                    run = release.work(run, stage, lambda _progress: None)
            except NoTextLeftError:
                is_over = True
            run = release.read(self._version) or run
            if run.outcome is None:  # it would be promoted, or lacks texts: the next mutant needs its place
                release.take_back(run, "aborted", "the zoo goes on")
        return self._ending(run, is_over=is_over)

    def _let_a_second_pass(self, _seconds: float) -> None:
        """Let customers send texts, and people label those for which the release waits."""
        with self._engine.begin() as connection:
            routes = read_routes(connection)
        wait_until(lambda: gateway_routes(self._installation)["revision"] == routes.revision, 30)
        replies = self._customers.send(REQUESTS)
        if not replies:
            raise NoTextLeftError
        for reply in replies:
            self._note(reply)
        self._wait_for_copies()
        self._label()

    def _note(self, reply: Reply) -> None:
        """Keep the right label of an answer, and count the harm that its caller had."""
        label = self._habitat.texts[reply.number].label
        self._labels[reply.id] = label
        self._harmed += not reply.id or (
            reply.version == self._version and reply.label != label and bool(self._right[reply.number])
        )
        if reply.id and reply.version == self._version and reply.number % JUDGED_EVERY == 0:
            self._customers.judge(reply.id, label)

    def _wait_for_copies(self) -> None:
        """Wait until the log has what was sent."""
        began = grown = time.monotonic()
        seen = -1
        while time.monotonic() - grown < SETTLED_S and time.monotonic() - began < MOST_S:
            count = len(self._copies.read())
            if count != seen:
                seen, grown = count, time.monotonic()
            time.sleep(0.1)

    def _label(self) -> None:
        """Give the right label to each text that waits, as the console's queue does: to the gateway first, then noted."""
        with self._engine.begin() as connection:
            said = read_release_labels(connection, self._began_at)
        for text in waiting_texts(self._copies.read(), said, self._params.release.labels):
            label, now = self._labels[text.prediction_id], time.time()
            self._customers.judge(text.prediction_id, label)
            given = {"text_id": text_id(str(text.text)), "prediction_id": text.prediction_id, "labeller": LABELLER}
            action = {"action": "label", "label": label, "cluster": None, "shown_at": now, "at": now, "undone_at": None}
            with self._engine.begin() as connection:
                connection.execute(queue_actions.insert(), given | action)

    def _ending(self, run: ReleaseRun, *, is_over: bool) -> Ending:
        evidence = ReleaseEvidence.from_json(run.evidence)
        shadow = evidence.shadow
        answered, harmed = evidence.challenger.answered + evidence.challenger.failed, self._harmed
        if run.broken == "latency":
            harmed += slow_answers(evidence.challenger, evidence.baseline)
        costs = (shadow.pairs, answered, shadow.differing, harmed)
        if run.outcome is None:
            where: Where = "no verdict" if is_over else "released"
            return Ending(where, run.stage, describe_estimate(evidence), *costs)
        stage: Where = "shadow" if run.outcome == "refused" else "canary"
        if run.broken is None and judge_shadow(shadow, self._params.release) != "worse":  # it is checked again before each step
            return Ending(stage if shadow.pairs else "load check", "load check", run.reason or "", *costs)
        return Ending(stage, run.broken or "worse", run.reason or "", *costs)


def describe_estimate(evidence: ReleaseEvidence) -> str:
    """Say how much better the challenger's accuracy is, with its 95 % interval."""
    seen = describe_shadow(evidence.shadow)
    low, estimate, high = (100 * seen[name] for name in ("lower", "estimate", "upper"))
    return f"{estimate:+.1f} points [{low:+.1f}, {high:+.1f}]"


def slow_answers(challenger: ArmTotals, baseline: ArmTotals) -> int:
    """Return how many more of the challenger's answers than 5 % were slower than the baseline's 95th percentile."""
    if not challenger.latencies or not baseline.latencies:
        return 0
    waits = np.repeat([bucket_ms(bucket) for bucket in baseline.latencies], list(baseline.latencies.values()))
    limit = float(np.quantile(waits, 0.95))
    slow = sum(answers for bucket, answers in challenger.latencies.items() if bucket_ms(bucket) > limit)
    return max(0, round(slow - 0.05 * sum(challenger.latencies.values())))
