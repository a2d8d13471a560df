"""How far a labeller can be relied on: the labels given to texts whose label is known, seeded or met by chance."""

from collections import Counter, defaultdict
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


class ControlAnswers(NamedTuple):
    """Answers on texts whose label is known."""

    controls: int
    right: int

    def interval(self, at_once: int = 1) -> ShareInterval | None:
        """Return the accuracy with an interval that holds for this many at once (Bonferroni); None without an answer."""
        z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / at_once)
        return wilson_interval(self.right, self.controls, z) if self.controls else None

    def is_surely_below(self, accuracy: float, at_once: int = 1) -> bool:
        """Return whether the answers prove a lower accuracy."""
        interval = self.interval(at_once)
        return interval is not None and interval.upper < accuracy


class LabellerScore(NamedTuple):
    """A labeller's answers on texts whose label is known, together and by the text's class."""

    total: ControlAnswers
    by_class: Mapping[str, ControlAnswers]

    def is_counted(self, settings: Labels) -> bool:
        """Return False once enough answers prove that the labeller is too often wrong, in all or about a class."""
        if self.total.controls < settings.min_control_answers:
            return True
        return not self.total.is_surely_below(settings.min_control_accuracy) and not self.mistaken_classes(settings)

    def mistaken_classes(self, settings: Labels) -> list[str]:
        """Return the classes on which the answers prove an accuracy below `min_class_accuracy`."""
        at_once = len(self.by_class)
        return [name for name, answers in self.by_class.items() if answers.is_surely_below(settings.min_class_accuracy, at_once)]


def score_labellers(opinions: Opinions, trusted: Mapping[str, str]) -> dict[str, LabellerScore]:
    """Compare each labeller's opinions with the trusted labels, which are by content id; each text counts once. Pure."""
    controls: defaultdict[str, Counter[str]] = defaultdict(Counter)
    right: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, labelled in opinions.texts.items():
        for opinion in labelled.opinions if key in trusted else ():
            controls[opinion.labeller][trusted[key]] += 1
            right[opinion.labeller][trusted[key]] += opinion.label == trusted[key]
    return {
        name: LabellerScore(
            ControlAnswers(count.total(), right[name].total()),
            {label: ControlAnswers(count[label], right[name][label]) for label in sorted(count)},
        )
        for name, count in sorted(controls.items())
    }


def store_scores(connection: sa.Connection, scores: Mapping[str, LabellerScore], settings: Labels) -> None:
    """Replace the stored scores: monitor and controller leave out the labellers who do not count."""
    now = datetime.now(UTC)
    connection.execute(labellers.delete())
    rows = [
        {
            "name": name,
            "controls": score.total.controls,
            "controls_right": score.total.right,
            "is_counted": score.is_counted(settings),
            "measured_at": now,
        }
        for name, score in scores.items()
    ]
    if rows:
        connection.execute(labellers.insert(), rows)
