"""From reports to one value a unit: the hash decides the arm, a unit counts once, and the rest is counted apart."""

import numpy as np
import pytest

from monitoring.release.ab.units import AbArms, ReportedValue, collect_units
from serving.prediction_log.answered import FoundAnswer
from serving.release.routing import Routes, choose_arm, unit_rank

ARMS = AbArms(salt="salt", weight=0.3, champion=1, challenger=2)
ROUTES = Routes(1, 1, 2, 0.3, 0.0, "salt")
REQUEST, JOB = "a" * 24, "b" * 32


def in_arm(of_b: bool, skip: int = 0) -> str:
    """Return a unit of this arm."""
    return [name for name in (f"unit-{n}" for n in range(200)) if (unit_rank("salt", name) < 0.3) is of_b][skip]


A, B = in_arm(False), in_arm(True)


def answer(unit: str | None, version: int, label: str = "refund", request_id: str = REQUEST) -> FoundAnswer:
    return FoundAnswer(unit, request_id, version, label)


def test_the_arms_are_those_of_the_routing() -> None:
    for number in range(500):
        chosen = choose_arm(ROUTES, f"unit-{number}")
        assert chosen is not None
        units = collect_units([ReportedValue("x", 1.0)], {"x": answer(f"unit-{number}", chosen[0])}, ARMS)
        assert (len(units.a), len(units.b)) == ((1, 0) if chosen[0] == 1 else (0, 1))
        assert units.crossed == 0


def test_outcomes_of_one_unit_are_one_observation_their_mean() -> None:
    answers = {"1": answer(A, 1), "2": answer(A, 1), "3": answer(B, 2)}
    reports = [ReportedValue("1", 2.0), ReportedValue("2", 4.0), ReportedValue("2", 6.0), ReportedValue("3", 9.0)]
    units = collect_units(reports, answers, ARMS)
    assert (units.a.tolist(), units.b.tolist(), units.outcomes) == ([4.0], [9.0], 4)


def test_a_request_without_a_unit_is_its_own() -> None:
    answers = {"1": answer(None, 1, request_id="c" * 24), "2": answer(None, 1, request_id="c" * 24)}
    units = collect_units([ReportedValue("1", 1.0), ReportedValue("2", 0.0)], answers, ARMS)
    assert sorted([*units.a, *units.b]) == [0.5]


def test_the_arm_stays_where_chance_put_the_unit_when_the_other_version_answers() -> None:
    units = collect_units([ReportedValue("1", 0.0), ReportedValue("2", 1.0)], {"1": answer(B, 1), "2": answer(A, 2)}, ARMS)
    assert (units.a.tolist(), units.b.tolist(), units.crossed) == ([1.0], [0.0], 2)


def test_texts_of_jobs_count_only_with_a_unit() -> None:
    answers = {"1": answer(None, 1, request_id=JOB), "2": answer(A, 1, request_id=JOB)}
    units = collect_units([ReportedValue("1", 1.0), ReportedValue("2", 1.0)], answers, ARMS)
    assert (units.outcomes, units.unassigned, len(units.a)) == (1, 1, 1)


def test_outcomes_whose_answer_the_log_lacks_are_counted_apart() -> None:
    units = collect_units([ReportedValue("1", 1.0)], {}, ARMS)
    assert (units.outcomes, units.unlogged, units.a.size, units.b.size) == (0, 1, 0, 0)


@pytest.mark.parametrize(("label", "value"), [("refund", 1.0), ("track", 0.0)])
def test_a_label_says_whether_the_answer_was_right(label: str, value: float) -> None:
    units = collect_units([ReportedValue("1", label)], {"1": answer(A, 1)}, ARMS)
    assert units.a.tolist() == [value]


def test_a_unit_that_is_called_like_a_request_is_another_one() -> None:
    name = "d" * 24
    units = collect_units(
        [ReportedValue("1", 1.0), ReportedValue("2", 0.0)],
        {"1": answer(name, 1), "2": answer(None, 1, request_id=name)},
        ARMS,
    )
    assert np.concatenate([units.a, units.b]).size == 2
