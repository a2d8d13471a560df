"""A stored measurement of disagreement starts a retrain only when it is recent, of the champion, and surely high enough."""

import json
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from monitoring.clock import Moment
from monitoring.decisions import describe_decision
from monitoring.flywheel.disagreement.store import add_measurement
from monitoring.retrain.decide import Decision, Episode, decide
from monitoring.retrain.decision_inputs import read_inputs
from monitoring.retrain.new_labels import first_label_since
from pipeline.params import Params
from state.database import open_state
from state.tables import feedback
from tests.monitoring.conftest import measured_disagreement
from tests.monitoring.homes import NOON, publish

LIMIT = 0.02
NOW = NOON + 86_400


@pytest.fixture
def settings(params: Params) -> Params:
    retrain = params.retrain.model_copy(update={"disagreement": LIMIT, "disagreement_within_s": 86_400.0})
    return params.model_copy(update={"retrain": retrain})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    publish(tmp_path, 3, None)
    return tmp_path


def decision(home: Path, settings: Params, *measured: dict[str, Any]) -> Decision:
    """Store measurements, and decide on a drift alert of version 3 that has lasted."""
    with open_state(home) as engine, engine.begin() as connection:
        for changes in measured:
            changed = {"measured_at": NOW, **changes}
            add_measurement(connection, measured_disagreement(**{"version": 3, **changed}))
        inputs = read_inputs(connection, [], settings, home, "a new commit", now=NOW)
    episode = Episode(1, "EvergreenDrift", 3, False, Moment(NOW - 3600, 1000.0, "boot"))
    (made,) = decide([episode], inputs, settings.retrain, Moment(NOW, 4600.0, "boot"))
    return made


@pytest.mark.parametrize("lower", [LIMIT, 0.3])
def test_a_lower_bound_at_the_limit_starts_a_retrain(home: Path, settings: Params, lower: float) -> None:
    made = decision(home, settings, {"lower": lower, "share": 0.4})
    assert (made.outcome, made.reason) == ("started", "disagreement")
    assert made.facts["disagreement_at_least"] == lower
    assert json.dumps(made.facts)
    assert describe_decision(made.outcome, made.reason) == (
        "retrain started, because two models surely disagree more than on the rows that measured them"
    )


@pytest.mark.parametrize(
    ("measured", "known"),
    [
        ([], None),
        ([{"lower": LIMIT - 0.0001, "share": 0.9}], LIMIT - 0.0001),  # the estimate alone is above
        ([{"lower": 0.5, "measured_at": NOW - 86_401}], None),  # too old
        ([{"lower": 0.5, "version": 2}], None),  # of the champion before
        ([{"lower": 0.5, "measured_at": NOW - 60}, {"lower": -0.1}], -0.1),  # the newest one counts
        ([{"lower": -0.1, "other": "4"}, {"lower": 0.0}], 0.0),
    ],
)
def test_nothing_else_does(home: Path, settings: Params, measured: list[dict[str, Any]], known: float | None) -> None:
    made = decision(home, settings, *measured)
    assert (made.outcome, made.reason) == ("waiting", "no_harm")
    assert made.facts["disagreement_at_least"] == known


def test_the_second_model_that_differs_most_counts(home: Path, settings: Params) -> None:
    made = decision(home, settings, {"lower": 0.5, "other": "4", "measured_at": NOW - 60}, {"lower": -0.1})
    assert (made.outcome, made.reason) == ("started", "disagreement")


def test_people_have_been_labelling_since_the_first_label_that_no_retrain_has_read(home: Path, settings: Params) -> None:
    def give(connection: sa.Connection, id: int, seconds_ago: float) -> None:
        at = datetime.fromtimestamp(NOW - seconds_ago, UTC)
        row = {"id": id, "prediction_id": f"p-{id}", "label": "refund", "kind": "label", "labeller": "ana", "version": 3}
        connection.execute(feedback.insert().values(**row, received_at=at))

    with open_state(home) as engine, engine.begin() as connection:
        assert read_inputs(connection, [], settings, home, None, now=NOW).labelling_s == inf
        for id, seconds_ago in ((1, 500.0), (2, 90.0), (3, 30.0)):
            give(connection, id, seconds_ago)
        assert first_label_since(connection, 0) == NOW - 500
        assert first_label_since(connection, 1) == NOW - 90
        assert first_label_since(connection, 3) is None
        assert read_inputs(connection, [], settings, home, None, now=NOW).labelling_s == 500
        assert (
            read_inputs(connection, [], settings, home, None, now=NOW - 3600).labelling_s == inf
        )  # the clock was set back: no wait may follow
