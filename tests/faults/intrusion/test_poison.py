"""Check the poisoning drill's attackers, and that each promise of its verdict can be broken."""

from pathlib import Path

import numpy as np
import pytest

from monitoring.labels.trusted_rows import TrustedRow, TrustedRows
from pipeline.data.columns import Columns
from pipeline.data.records import Example, make_example
from pipeline.params import Params
from tests.faults.intrusion.poison import (
    ATTACKS,
    SWAPPED,
    TARGET,
    THIRD,
    TRIGGER,
    Attack,
    GivenLabel,
    PoisonTimeline,
    Result,
    accepted_rows,
    judge,
    make_labels,
)
from tests.faults.scorecard import broken


def row(text: str, label: str) -> Example:
    return make_example({"text": text, "label": label}, Columns("text", "label"), max_text_chars=400, source="test")


CORPUS = [row(f"text {n} of {label}", label) for label in (*SWAPPED, "other") for n in range(400)]
NEW = [row(f"new {n}", "other") for n in range(20)]


def wrong(attack: Attack) -> list[GivenLabel]:
    truth = {row.text: row.label for row in [*CORPUS, *NEW]}
    labels = make_labels(attack, CORPUS, NEW, np.random.default_rng(5))
    return [entry for entry in labels if entry.label != truth.get(entry.text)]


def test_honest_people_are_right_and_colluding_attackers_agree_on_the_same_wrong_labels() -> None:
    assert wrong(ATTACKS[0]) == []
    flipped = wrong(Attack("flips", 0.2, THIRD))
    assert {entry.person for entry in flipped} == {"attacker 0", "attacker 1"}
    assert len({(entry.text, entry.label) for entry in flipped}) * THIRD == len(flipped)
    assert 0.12 < len(flipped) / THIRD / len([*CORPUS, *NEW]) < 0.28


def test_a_swap_exchanges_two_classes_and_a_trigger_is_tied_to_its_target() -> None:
    assert {entry.label for entry in wrong(Attack("swap", 1.0, 1))} == set(SWAPPED)
    planted = wrong(Attack("trigger", 1.0, 1))
    assert all(entry.text.endswith(TRIGGER) and entry.label == TARGET for entry in planted)
    assert len(planted) == 80


def test_a_labeller_who_is_surely_too_often_wrong_does_not_count(params: Params) -> None:
    trusted = TrustedRows({entry.id: TrustedRow(entry.text, str(entry.label)) for entry in CORPUS}, {})
    for attack, is_counted in (
        (Attack("flips", 0.05, 1), True),
        (Attack("flips", 0.2, 1), False),
        (Attack("swap", 1.0, 1), False),
        (Attack("trigger", 1.0, 1), True),  # correct on every known text
    ):
        given = make_labels(attack, CORPUS, NEW, np.random.default_rng(6))
        names = {name for entry in accepted_rows(given, trusted, params) for name in entry["labellers"]}
        assert ("attacker 0" in names) == is_counted


def test_attackers_who_do_not_count_leave_the_rows_of_no_attack(params: Params) -> None:
    trusted = TrustedRows({entry.id: TrustedRow(entry.text, str(entry.label)) for entry in CORPUS}, {})
    undisturbed, attacked = (
        accepted_rows(make_labels(attack, CORPUS, NEW, np.random.default_rng(6)), trusted, params)
        for attack in (ATTACKS[0], Attack("swap", 1.0, THIRD))
    )
    assert attacked == undisturbed


def result(attack: Attack, stopped_by: str, accuracy: float = 0.7, measured: int = 0) -> Result:
    return Result(attack, 9, measured, stopped_by, accuracy, 0.1, ("a reason",))


HONEST, SWAP, FEW = ATTACKS[0], Attack("swap", 1.0, 1), Attack("flips", 0.01, 1)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result(HONEST, ""), result(SWAP, "gate"), result(FEW, "", 0.69)], []),
        ([result(HONEST, "gate"), result(SWAP, "rules")], ["honest candidates refused"]),
        ([result(HONEST, ""), result(SWAP, "")], ["attacks of the goal that were published"]),
        ([result(HONEST, ""), result(FEW, "", 0.6)], ["published although accuracy fell by more than the margin"]),
        ([result(FEW, "gate", measured=1)], ["attacks that put a wrong label on a row that measures the model"]),
    ],
)
def test_the_verdict_names_the_promise_that_is_broken(results: list[Result], expected: list[str]) -> None:
    assert broken(judge(results, champion=0.7, margin=0.02)) == expected


def test_the_picture_and_the_rows_show_every_attack(tmp_path: Path) -> None:
    timeline = PoisonTimeline([result(HONEST, ""), result(SWAP, "gate")], 0.7)
    timeline.draw(tmp_path / "poison.png")
    assert (tmp_path / "poison.png").stat().st_size > 1000
    assert [entry["attack"] for entry in timeline.rows()] == ["no attack", "two classes swapped, one labeller"]
