"""Measures how often the champion and a second model disagree on the newest texts of the log, and stores it.

The second model is the challenger, where one is served beside the champion, and the frozen control that a version carries.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

from monitoring.flywheel.disagreement.copies import challenger_pairs
from monitoring.flywheel.disagreement.excess import DifferenceCounts, Expected, excess_share
from monitoring.flywheel.disagreement.logged_answers import observations, read_answers
from monitoring.flywheel.disagreement.pairs import AnswerPair, answered, count_kinds, pair
from monitoring.flywheel.disagreement.repeats import count_unstable
from monitoring.flywheel.disagreement.second_answers import (
    ask,
    control_model,
    control_on_reference,
    find_control,
    fp32_model,
    versions_on_reference,
)
from monitoring.flywheel.disagreement.store import CONTROL, DisagreementMeasurement, add_measurement
from monitoring.flywheel.disagreement.task import TASK
from pipeline.params import Params
from serving.prediction_log.writer import log_url
from serving.release.manifest import version_folder
from serving.release.routing import Routes, read_routes
from state.database import open_state


class ModelComparison(NamedTuple):
    """A stored measurement and the pairs of answers behind it, one a text, oldest first."""

    measurement: DisagreementMeasurement
    expected: Expected
    pairs: Sequence[AnswerPair]


def measure_disagreement(home: Path, params: Params, now: float) -> list[ModelComparison]:
    """Compare the champion's newest answers with those of each second model, store a row for each, and return them.

    Without a champion, or without a text that a second model has answered, there is nothing to store.
    """
    with open_state(home) as engine:
        with engine.connect() as connection:
            routes = read_routes(connection)
        comparisons = [] if routes.champion is None else compare(home, params, routes, routes.champion, now)
        with engine.begin() as connection:
            for comparison in comparisons:
                add_measurement(connection, comparison.measurement)
    return comparisons


def compare(home: Path, params: Params, routes: Routes, champion: int, now: float) -> list[ModelComparison]:
    """Compare the champion with the challenger and with the frozen control."""
    settings, folder = params.flywheel, version_folder(home, champion)
    url, since = log_url(params.log, home), now - settings.reach_s
    logged = read_answers(url, champion, routes.challenger, since=since, at_most=settings.max_candidates)
    rows = observations(logged.champion, params.monitor.rows_per_unit)
    newest = rows[-settings.compared_texts :]
    again = ask("fp32", fp32_model(folder), newest)

    def expected(pairs: Sequence[AnswerPair], reference: DifferenceCounts) -> Expected:
        texts = [made.champion for made in answered(pairs)]
        return Expected(count_unstable(texts, logged.champion, again, TASK), reference)

    comparisons = []
    if routes.challenger is not None:
        pairs = challenger_pairs(rows, logged, routes, TASK, settings)
        reference = versions_on_reference(folder, version_folder(home, routes.challenger))
        comparisons += _compare(champion, str(routes.challenger), pairs, expected(pairs, reference), params, now)
    if control := find_control(home, champion):
        second = ask(CONTROL, control_model(control, params), newest)
        pairs = [pair(row, second[row.text_hash], TASK, settings) for row in newest if row.text_hash in second]
        comparisons += _compare(champion, CONTROL, pairs, expected(pairs, control_on_reference(folder, control)), params, now)
    return comparisons


def _compare(
    version: int, other: str, pairs: Sequence[AnswerPair], expected: Expected, params: Params, now: float
) -> list[ModelComparison]:
    """Return the comparison with a second model; none where it has answered no text."""
    both, kinds = answered(pairs), count_kinds(pairs)
    if not both:
        return []
    compared = DifferenceCounts(len(both), kinds["label"])
    share = excess_share(compared, expected, NormalDist().inv_cdf(0.5 + params.monitor.confidence / 2))
    measurement = DisagreementMeasurement(
        version=version,
        other=other,
        began_at=pairs[0].champion.at,
        ended_at=pairs[-1].champion.at,
        compared=compared.texts,
        differing=compared.differing,
        repeated=expected.unstable.texts,
        unstable=expected.unstable.differing,
        reference_rows=expected.reference.texts,
        reference_differing=expected.reference.differing,
        gaps=kinds["gap"],
        slower=kinds["slower"],
        failed=kinds["failed"],
        share=share.estimate,
        lower=share.lower,
        upper=share.upper,
        measured_at=now,
    )
    return [ModelComparison(measurement, expected, pairs)]
