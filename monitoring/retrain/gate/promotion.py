"""What a person must know before a candidate answers in the champion's place: labels that change, and the gate's verdict."""

from pathlib import Path
from typing import NamedTuple

from monitoring.retrain.gate.recorded_verdicts import RecordedVerdict, find_verdict
from pipeline.params import Params
from serving.release.label_change import LabelChange, label_change, labels_of
from serving.release.manifest import version_folder
from serving.release.release_table import Release
from state.database import open_state

COUNTED_ROWS = 10_000  # of the prediction log
MAX_REASONS = 5  # of a refusal


class LostAnswers(NamedTuple):
    """The newest answers in the prediction log, and how many of them have a label that vanishes."""

    answers: int
    lost: int


class Promotion(NamedTuple):
    """A candidate compared with the champion that it would replace."""

    champion: int
    labels: LabelChange | None  # None: the labels of one of them are not known here
    lost: LostAnswers | None  # None: no label vanishes, or the log cannot be read
    recorded: RecordedVerdict | None  # None: the gate has not judged this content
    has_other_champion: bool  # since the gate judged it

    def objections(self) -> list[str]:
        """Return the reasons against it as sentences; with any of them, a person has to insist."""
        return [*self.label_sentences(), *self._refusal()]

    def label_sentences(self) -> list[str]:
        """Say what callers will notice: labels that vanish, how often they were answered, and labels that are new."""
        if self.labels is None:
            return [f"its labels cannot be compared with those of version {self.champion}: a labels.txt is missing here"]
        sentences = self.labels.describe()
        if self.lost and self.lost.answers:
            share = self.lost.lost / self.lost.answers
            sentences.append(f"{share:.1%} of the last {self.lost.answers} answers had a label that vanishes")
        return sentences

    def _refusal(self) -> list[str]:
        if self.recorded is None or self.recorded.verdict.passed:
            return []
        reasons = "; ".join(self.recorded.verdict.reasons[:MAX_REASONS])
        against = ", against another champion than today's" if self.has_other_champion else ""
        return [f"the gate refused it on {self.recorded.judged_at:%Y-%m-%d %H:%M} UTC{against}: {reasons}"]


def examine_promotion(candidate: Path, digest: str, champion: Release, home: Path, params: Params) -> Promotion:
    """Compare a package or a version's folder, of this content digest, with the champion. Nothing is changed."""
    before, after = labels_of(version_folder(home, champion.version)), labels_of(candidate)
    labels = label_change(before, after) if before and after else None
    with open_state(home) as engine, engine.begin() as connection:
        recorded = find_verdict(connection, digest)
    lost = _count_lost(labels.gone, home, params) if labels and labels.gone else None
    other = recorded is not None and recorded.champion_digest != champion.content_digest
    return Promotion(champion.version, labels, lost, recorded, other)


def _count_lost(gone: tuple[str, ...], home: Path, params: Params) -> LostAnswers | None:
    """Count the newest answers whose label vanishes; None when the log cannot be read."""
    from serving.prediction_log.label_counts import count_newest_labels  # imports that a promotion without a change does not need
    from serving.prediction_log.writer import log_url

    try:
        counts = count_newest_labels(log_url(params.log, home), COUNTED_ROWS)
    except Exception:  # a store may raise anything, and a promotion must not wait for it
        return None
    return LostAnswers(counts.total(), sum(counts[label] for label in gone))
