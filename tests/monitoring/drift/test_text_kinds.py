"""What kind of text a row is taken for."""

import numpy as np
import pytest

from monitoring.drift.text_kinds import AS_KNOWN, FAR, FOREIGN, SPOILT, Kinds, fit_kinds, forgetting, looks, right_if_spoilt
from pipeline.params import Monitor, Params
from tests.monitoring.worlds import World, settings


@pytest.fixture(scope="module")
def own(params: Params) -> Monitor:
    return settings(params.monitor)


@pytest.fixture(scope="module")
def kinds(own: Monitor) -> Kinds:
    return fit_kinds(*World(1).with_spoilt(2000), own)


@pytest.mark.parametrize("change", [{}, {"foreign": 0.2}, {"spoilt": 0.5}])
def test_shares_of_kinds_are_found(kinds: Kinds, change: dict[str, float]) -> None:
    found = np.mean([looks(kinds, World(70 + seed).labelled_rows(1000, **change)[0])[1] for seed in range(5)], axis=0)
    assert found[FOREIGN] + found[FAR] == pytest.approx(change.get("foreign", 0.0), abs=0.06)
    assert found[SPOILT] == pytest.approx(change.get("spoilt", 0.0), abs=0.06)
    assert found.sum() == pytest.approx(1)


def test_spoilt_answers_are_as_right_as_it_is_said(kinds: Kinds) -> None:
    rows, right = World(80).labelled_rows(3000, spoilt=1.0)
    assert right_if_spoilt(kinds, rows).mean() == pytest.approx(right.mean(), abs=0.03)


def test_a_forgotten_class_is_not_said_and_the_rest_sums_to_one() -> None:
    rows = World(2).rows(50)
    found = forgetting(rows, np.array([False, True, False, False])).probabilities
    assert not found[:, 1].any()
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_two_classes_cannot_be_forgotten_and_all_rows_are_known_or_spoilt(own: Monitor) -> None:
    both = World(3).with_spoilt(400)
    said = [np.stack([1 - one.probabilities[:, 0], one.probabilities[:, 0]], axis=1) for one in both]
    two = [one._replace(labels=one.labels[:2], probabilities=p) for one, p in zip(both, said, strict=True)]
    found = fit_kinds(two[0], two[1], own)
    rows = World(4).rows(300)
    shares = looks(found, rows._replace(probabilities=rows.probabilities[:, :2]))[1]
    assert shares[FOREIGN] + shares[FAR] < 0.02
    assert shares[AS_KNOWN] > 0.5
