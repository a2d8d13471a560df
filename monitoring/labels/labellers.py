"""How far a labeller can be relied on: the labels given to texts whose label is known, seeded or met by chance."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import NormalDist
from typing import NamedTuple

import sqlalchemy as sa

from monitoring.detectors.wilson import ShareInterval, wilson_interval
from monitoring.labels.opinions import Opinions
from pipeline.params import Labels
from state.tables import labellers

CONFIDENCE = 0.95


class LabellerScore(NamedTuple):
    """A labeller's answers on texts whose label is known."""

    controls: int
    right: int

    def interval(self) -> ShareInterval | None:
        """Return the accuracy with its interval; None without an answer."""
        z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        return wilson_interval(self.right, self.controls, z) if self.controls else None

    def is_counted(self, settings: Labels) -> bool:
        """Return False once enough answers prove an accuracy below `min_control_accuracy`."""
        interval = self.interval()
        if interval is None or self.controls < settings.min_control_answers:
            return True
        return interval.upper >= settings.min_control_accuracy


def score_labellers(opinions: Opinions, trusted: Mapping[str, str]) -> dict[str, LabellerScore]:
    """Compare each labeller's opinions with the trusted labels, which are by content id; each text counts once. Pure."""
    controls: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for key, labelled in opinions.texts.items():
        for opinion in labelled.opinions if key in trusted else ():
            controls[opinion.labeller] += 1
            right[opinion.labeller] += opinion.label == trusted[key]
    return {name: LabellerScore(controls[name], right[name]) for name in sorted(controls)}


def store_scores(connection: sa.Connection, scores: Mapping[str, LabellerScore], settings: Labels) -> None:
    """Replace the stored scores: monitor and controller leave out the labellers who do not count."""
    now = datetime.now(UTC)
    connection.execute(labellers.delete())
    rows = [
        {
            "name": name,
            "controls": score.controls,
            "controls_right": score.right,
            "is_counted": score.is_counted(settings),
            "measured_at": now,
        }
        for name, score in scores.items()
    ]
    if rows:
        connection.execute(labellers.insert(), rows)
