"""From what callers reported to one value a unit and arm. Pure.

A unit's arm follows from the hash that routes it, never from the version that answered: where the champion stood in for the
challenger, or a caller asked for a version, the arms stay those that chance has made (intention to treat).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.prediction_log.answered import FoundAnswer
from serving.release.routing import unit_rank

JOB_ID = re.compile(r"[0-9a-f]{32}")  # its texts without a unit are routed one by one, by keys that the log does not hold


class AbArms(NamedTuple):
    """What makes an arm: units with a rank below the weight belong to the challenger, B."""

    salt: str
    weight: float
    champion: int
    challenger: int


class ReportedValue(NamedTuple):
    """An outcome of a prediction, or the label that somebody gave it: then the value is whether the answer was right."""

    prediction_id: str
    value: float | str


class UnitValues(NamedTuple):
    """A value for each unit, the mean of its outcomes, and what was left out."""

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    outcomes: int  # that count
    unlogged: int  # their answers are not in the prediction log, or not yet
    unassigned: int  # of texts of jobs without a unit
    crossed: int  # that count, though the version of the other arm answered


def collect_units(reports: Iterable[ReportedValue], answers: Mapping[str, FoundAnswer], arms: AbArms) -> UnitValues:
    """Return the value of every unit in each arm."""
    totals: dict[tuple[bool, str], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    is_challenger: dict[tuple[bool, str], bool] = {}
    outcomes = unlogged = unassigned = crossed = 0
    for report in reports:
        answer = answers.get(report.prediction_id)
        if answer is None:
            unlogged += 1
            continue
        if answer.unit is None and JOB_ID.fullmatch(answer.request_id):
            unassigned += 1
            continue
        key = answer.unit or answer.request_id
        unit = (answer.unit is None, key)
        if unit not in is_challenger:
            is_challenger[unit] = unit_rank(arms.salt, key) < arms.weight
        value = report.value if isinstance(report.value, float) else float(report.value == answer.label)
        total, count = totals[unit]
        totals[unit] = total + value, count + 1
        outcomes += 1
        crossed += answer.version != (arms.challenger if is_challenger[unit] else arms.champion)
    a, b = (np.array([total / n for unit, (total, n) in totals.items() if is_challenger[unit] is of_b]) for of_b in (False, True))
    return UnitValues(a, b, outcomes, unlogged, unassigned, crossed)
