"""Makes a round: reads the log, finds candidates, groups them, orders them, and replaces the file of the round."""

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog

from monitoring.detectors.wilson import wilson_interval
from monitoring.flywheel.candidates.criteria import Criteria, read_reference
from monitoring.flywheel.candidates.log_pass import FlaggedText, LogPass, pass_over_log
from monitoring.flywheel.clusters.build import Compared, cluster_candidates
from monitoring.flywheel.round import LabelCandidate, Round, read_round, write_round
from monitoring.labels.book import LabelBook, read_book
from pipeline.data.records import text_id
from pipeline.errors import InputError, ToolError
from pipeline.params import Params
from serving.prediction_log.writer import log_url
from serving.release.label_change import labels_of
from serving.release.manifest import model_name, repository
from serving.release.publish import champion

Z = 1.959964
Announce = Callable[[str], None]
log = structlog.get_logger()


class KnownTexts(NamedTuple):
    """Texts that need no label or must get none, texts with a proposed label, and the number of labelled texts by class."""

    left_out: frozenset[str]  # content ids
    proposed: frozenset[str]
    labels: dict[str, int]


def make_round(home: Path, params: Params, now: float, *, root: Path = Path(), announce: Announce = lambda _line: None) -> Round:
    """Make a round from the champion's answers and write it; a round that is killed leaves the one before.

    `root` is the working tree whose data are trusted. Raises `ToolError` without a champion, and `InputError` with too few
    answers.
    """
    release = champion(home)
    if release is None:
        raise ToolError(str(home), "no version has been published", "make repro")
    folder = repository(home) / model_name(release.version)
    known = read_known_texts(params, home, root, folder)
    collected = collect(params, home, release.version, folder, known, now, announce)
    previous = read_round(home)
    candidates = [as_candidate(row, release.version) for row in collected.texts]
    compared = Compared(collected.compared, collected.differing, lambda some, all_: wilson_interval(some, all_, Z), 0.0)
    clustered = cluster_candidates(
        candidates, collected.sketches, compared, known.labels, previous, release.version, params.flywheel
    )
    announce(f"{len(clustered.candidates)} texts in {len(clustered.clusters)} clusters")
    order = np.arange(len(clustered.candidates))
    made = Round(now, release.version, [clustered.candidates[i] for i in order], clustered.clusters, clustered.next_cluster)
    write_round(home, made)
    return made


def collect(params: Params, home: Path, version: int, folder: Path, known: KnownTexts, now: float, announce: Announce) -> LogPass:
    """Return the candidates of the log; raises `InputError` with fewer than `flywheel.min_answers` answers."""
    settings, facts = params.flywheel, read_reference(folder, params)
    criteria = Criteria(
        version=version,
        classes=facts.classes,
        sketch_size=facts.sketch_size,
        low_margin=settings.low_margin,
        novelty=facts.novelty,
        second_labels={},
        proposed=known.proposed,
        left_out=known.left_out,
    )
    url = log_url(params.log, home)
    collected = pass_over_log(url, criteria, since=now - settings.reach_s, at_most=settings.max_candidates)
    announce(f"{collected.answers} answers of version {version}: {len(collected.texts)} texts that are worth a label")
    if collected.skipped:
        log.warning("unreadable segments skipped", files=collected.skipped)
    if collected.without_text:
        announce(f"{collected.without_text} answers are left out: log.text is hash, so nobody can read their texts")
    if collected.answers < settings.min_answers:
        what = f"version {version} has given {collected.answers} answers, a round needs {settings.min_answers}"
        raise InputError(url, what, "wait for more traffic, or lower flywheel.min_answers in params.yaml")
    return collected


def read_known_texts(params: Params, home: Path, root: Path, folder: Path) -> KnownTexts:
    """Read what is labelled, protected or proposed."""
    labels = labels_of(folder)
    return known_texts(read_book(params, home, root, folder, labels), labels, params)


def known_texts(book: LabelBook, labels: Collection[str], params: Params) -> KnownTexts:
    """Leave out rows of the corpus, protected rows, and texts whose label from people counts."""
    rows = {text_id(row["text"]): str(row["label"]) for row in book.merge(labels, params).rows}
    classes = {key: row.label for key, row in book.trusted.corpus.items() if key not in book.trusted.protected}
    proposed = {key for key, text in book.opinions.texts.items() if any(given.label not in labels for given in text.opinions)}
    left_out = {*book.trusted.corpus, *book.trusted.protected, *rows}
    return KnownTexts(frozenset(left_out), frozenset(proposed - left_out), dict(Counter((classes | rows).values())))


def as_candidate(row: FlaggedText, version: int) -> LabelCandidate:
    """Return the candidate without its cluster, which is not known yet."""
    return LabelCandidate(**row._asdict(), version=version, cluster=-1, is_sure=False)
