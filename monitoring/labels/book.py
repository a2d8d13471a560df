"""Everything that is known about labels, read at once: opinions, trusted rows, settlements and the labellers' scores."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from monitoring.labels.agreement import MergedFeedback, merge_feedback
from monitoring.labels.controls import read_controls
from monitoring.labels.disputes import DisputedLabel, Settlement, changed_labels, find_disputes, read_settlements
from monitoring.labels.entries import FeedbackEntry, count_by_labeller, delete_expired, read_entries, read_label_clusters
from monitoring.labels.feedback_file import FILE, read_file
from monitoring.labels.labellers import LabellerScore, score_labellers, store_scores
from monitoring.labels.opinions import Opinions, collect_opinions
from monitoring.labels.suspects import SuspectLabel, as_disputes, read_suspects
from monitoring.labels.texts import texts_of
from monitoring.labels.trusted_rows import TrustedRows, read_trusted
from pipeline.data.records import text_id
from pipeline.params import Params
from serving.release.label_change import labels_of
from serving.release.manifest import version_folder
from serving.release.release_table import find_release, has_releases
from state.database import open_state, read_state

NOT_COUNTED = "by labellers who do not count"


class LabelBook(NamedTuple):
    """The labels of a home, of labellers who count and without control answers."""

    opinions: Opinions
    trusted: TrustedRows
    settlements: list[Settlement]
    scores: dict[str, LabellerScore]
    counts: dict[str, tuple[int, int]]  # labeller → labels in force, withdrawn ones
    stored: list[dict[str, str]]  # rows of earlier retrains
    last_id: int  # of the feedback that was read
    suspects: list[SuspectLabel]  # of the last label audit
    clusters: dict[str, int]  # in which texts were labelled, by content id

    def disputes(self) -> list[DisputedLabel]:
        """Return the disputes, open and settled: those between people and protected rows, then those that the audit raised."""
        raised = find_disputes(self.opinions, self.trusted.protected, self.settlements)
        labels = {key: row.label for key, row in self.trusted.corpus.items()}
        between = {(dispute.text_id, dispute.label) for dispute in raised}
        audited = as_disputes(self.suspects, labels, self.settlements)
        return [*raised, *(dispute for dispute in audited if (dispute.text_id, dispute.label) not in between)]

    def contradicted_rows(self) -> int:
        """Return the number of open disputes that people raised."""
        raised = find_disputes(self.opinions, self.trusted.protected, self.settlements)
        return sum(dispute.settlement is None for dispute in raised)

    def text_of(self, id: str) -> str | None:
        """Return the text with this content id; None for a row that is no longer in the data."""
        row, labelled = self.trusted.corpus.get(id), self.opinions.texts.get(id)
        return row.text if row else labelled.text if labelled else None

    def merge(self, known_labels: Collection[str], params: Params) -> MergedFeedback:
        """Return the rows for the next data set, with the cluster that each was labelled in."""
        merged = merge_feedback(self.stored, self.opinions, self.trusted, self.settlements, known_labels, params)
        rows = [{**row, "cluster": self.clusters.get(text_id(row["text"]))} for row in merged.rows]
        return merged._replace(rows=rows)


def read_book(params: Params, home: Path, root: Path, champion: Path | None, known_labels: Collection[str]) -> LabelBook:
    """Delete expired labels, read the others with their texts, and measure and store the labellers' scores.

    `root` is the working tree whose data are trusted, `champion` the folder of the version whose reference is protected.
    """
    with open_state(home) as engine:
        with engine.begin() as connection:
            delete_expired(connection, params.labels.retention_s)
            entries = read_entries(connection)
            counts = count_by_labeller(connection)
            settled = read_settlements(connection)
            clusters = read_label_clusters(connection)
        stored = read_file(home / "retrain" / FILE)
        trusted = read_trusted(root, champion, stored, params)
        controls = read_controls(home)
        texts = texts_of(params, home, [entry for entry in entries if entry.prediction_id not in controls])
        known = {*known_labels, *(row.label for row in trusted.corpus.values()), *(row["label"] for row in stored)}
        every = collect_opinions(entries, {**texts, **controls}, known, params.data)
        scores = score_labellers(every, _trusted_labels(trusted, settled))
        with engine.begin() as connection:
            store_scores(connection, scores, params.labels)
    left_out = {name for name, score in scores.items() if not score.is_counted(params.labels)}
    opinions = collect_opinions(
        [entry for entry in entries if entry.prediction_id not in controls and entry.labeller not in left_out],
        texts,
        known,
        params.data,
    )
    return LabelBook(
        opinions=_with_skipped(opinions, entries, left_out),
        trusted=trusted,
        settlements=settled,
        scores=scores,
        counts=counts,
        stored=stored,
        last_id=max((entry.id for entry in entries), default=0),
        suspects=read_suspects(home),
        clusters=clusters,
    )


def read_current_book(params: Params, home: Path) -> LabelBook:
    """Read the labels against the champion and the data of the working directory."""
    with read_state(home) as connection:
        has_any = connection is not None and has_releases(connection)
        release = find_release(connection, role="champion") if connection is not None and has_any else None
    folder = version_folder(home, release.version) if release else None
    return read_book(params, home, Path(), folder, labels_of(folder))


def _trusted_labels(trusted: TrustedRows, settled: list[Settlement]) -> dict[str, str]:
    changed = changed_labels(settled)
    return {key: changed[key].label if key in changed else row.label for key, row in trusted.corpus.items()}


def _with_skipped(opinions: Opinions, entries: list[FeedbackEntry], left_out: set[str]) -> Opinions:
    skipped = sum(entry.labeller in left_out for entry in entries)
    return opinions._replace(skipped=opinions.skipped | {NOT_COUNTED: skipped}) if skipped else opinions
