"""A look reads real counts, a real log and real labels; a watch that begins anew comes to the same evidence."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from monitoring.release.evidence import ReleaseEvidence, describe_stage, standing_of
from monitoring.release.facts import release_facts
from monitoring.release.looks import LogWatch
from monitoring.release.runs import ReleaseRun, first_run
from pipeline.params import Params
from serving.arm_counts import ArmTotals, add_counts
from state.database import read_only
from state.tables import feedback, queue_actions
from tests.monitoring.homes import NOON, Gateway
from tests.monitoring.release.copies import Copied, answer, answers

NOW = NOON + 600
RUN = first_run(7, 2, 1, "salt", NOON)
CANARY = RUN._replace(stage="canary")


class Home:
    """A home with a log and a database, and a release in it."""

    def __init__(self, params: Params, folder: Path, engine: sa.Engine) -> None:
        self.folder, self.engine = folder, engine
        self.params = params.model_copy(update={"release": params.release.model_copy(update={"examples": 2})})
        self.gateway = Gateway(folder, "session")

    def watch(self) -> LogWatch:
        return LogWatch(self.params, self.folder, RUN, clock=lambda: NOW)

    def look(self, watch: LogWatch, run: ReleaseRun = RUN, before: ReleaseEvidence | None = None) -> ReleaseEvidence:
        return watch.look(partial(read_only, self.engine), run, before or ReleaseEvidence())

    def copy(self, *copied: Copied, at: float = NOON) -> None:
        self.gateway.write(answers(copied, at))

    def label(self, id: str, label: str, version: int = 1) -> None:
        at = datetime.fromtimestamp(NOON + 400, UTC)
        row = {"prediction_id": id, "label": label, "kind": "label", "labeller": "ana", "received_at": at, "version": version}
        self.insert(feedback, row)

    def ask(self, id: str) -> None:
        action = {"text_id": "t", "prediction_id": id, "labeller": "ana", "action": "label", "shown_at": NOON, "at": NOON}
        self.insert(queue_actions, action)

    def insert(self, table: sa.Table, row: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(table.insert(), row)

    def count(self, **arms: ArmTotals) -> None:
        with self.engine.begin() as connection:
            add_counts(connection, "salt", arms)  # type: ignore[arg-type]


@pytest.fixture
def home(params: Params, tmp_path: Path, state: sa.Engine) -> Home:
    return Home(params, tmp_path / "home", state)


def test_pairs_wait_for_their_labels_and_are_judged_in_order(home: Home) -> None:
    home.copy(("a", "track", "track"), ("b", "track", "refund"), ("c", "track", "refund"), ("d", "track", "track"))
    watch = home.watch()
    evidence = home.look(watch)
    assert (evidence.shadow.pairs, evidence.compared, evidence.differing, evidence.waiting) == (1, 4, 2, 2)
    home.label("p2", "refund")
    assert home.look(watch).shadow.pairs == 1
    home.label("p1", "track")
    evidence = home.look(watch)
    assert (evidence.shadow.pairs, evidence.shadow.gained, evidence.shadow.lost, evidence.waiting) == (4, 1, 1, 0)
    assert home.look(home.watch()) == evidence  # another controller goes on
    assert [(example.text, example.label) for example in watch.examples()] == [("b", "track"), ("c", "refund")]  # the lost first
    assert "4 texts compared, 2 of at most 150 labels" in describe_stage(
        RUN._replace(evidence=evidence.to_json()), home.params.release
    )


def test_a_canary_sees_what_both_arms_answered_since_the_last_look(home: Home) -> None:
    home.copy(("a", "track", "track"))
    home.count(challenger=ArmTotals(50), baseline=ArmTotals(40))  # before the canary
    watch = home.watch()
    begun = home.look(watch, CANARY, home.look(watch))
    home.copy(("b", "track", "refund"), at=NOON + 100)
    home.count(challenger=ArmTotals(30, 5, 0, {40: 30}), baseline=ArmTotals(35, 0, 0, {40: 35}))
    seen = home.look(watch, CANARY, begun)
    assert seen.guardrails is not None
    standing = standing_of(CANARY, seen)
    assert (standing.answered, standing.baseline_answered) == (30, 35)
    assert (seen.guardrails.compared, seen.guardrails.differing) == (1, 1)
    assert ReleaseEvidence.from_json(seen.to_json()) == seen
    again = home.look(home.watch(), CANARY, seen)  # of another controller: nothing counts twice
    assert (again.guardrails, again.challenger) == (seen.guardrails, seen.challenger)
    facts = dict(release_facts(CANARY._replace(evidence=seen.to_json()), home.params.release))
    assert facts["stage"] == "canary: step 1 of 4, 1% of units; 30 answers and 35 of the baseline, of 200 each"


def test_labels_that_nobody_was_asked_for_judge_the_answers_of_both_versions(home: Home) -> None:
    def issued(number: int, version: int) -> str:
        return f"{int(NOON + 200):08x}{'0' * 16}-{version}-{number}-{'0' * 16}"

    watch = home.watch()
    begun = home.look(watch, CANARY, home.look(watch))._replace(canary_began_at=NOON + 100)
    own = [answer(issued(n, 2), f"own {n}", "refund", at=NOON + 200)._replace(version=2, role="challenger") for n in range(3)]
    home.gateway.write([*own, answer(issued(0, 1), "champion's", "refund", at=NOON + 200)])
    for number, label in enumerate(("Refund", "track", "track")):
        home.label(issued(number, 2), label, version=2)
    home.label(issued(0, 1), "refund")
    home.ask(issued(2, 2))  # from the label queue
    seen = home.look(watch, CANARY, begun)
    assert seen.guardrails is not None
    assert seen.feedback_upto == 4
    assert (seen.guardrails.feedback.pairs, seen.guardrails.feedback.hits, seen.guardrails.feedback.baseline_hits) == (1, 0.5, 0)
    assert home.look(watch, CANARY, seen).guardrails == seen.guardrails
