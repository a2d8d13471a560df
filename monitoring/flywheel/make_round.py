"""Makes a round: measures disagreement, finds candidates in the log, groups and orders them, and replaces the round's file."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import structlog
from filelock import FileLock
from numpy.typing import NDArray

from monitoring.flywheel.candidates.criteria import Criteria, read_reference
from monitoring.flywheel.candidates.log_pass import FlaggedText, LogPass, pass_over_log
from monitoring.flywheel.candidates.near_copies import ask_once
from monitoring.flywheel.clusters.build import Compared, cluster_candidates
from monitoring.flywheel.disagreement.excess import Expected
from monitoring.flywheel.disagreement.measure import ModelComparison, measure_disagreement
from monitoring.flywheel.queue.follow_up import encode_sketch
from monitoring.flywheel.queue.order import order_queue
from monitoring.flywheel.queue.round import LabelCandidate, Round, read_round, write_round
from monitoring.flywheel.queue.verify import is_sure
from monitoring.labels.book import LabelBook, read_book
from pipeline.data.fence import Fence
from pipeline.data.records import text_id
from pipeline.errors import InputError, ToolError
from pipeline.output.progress import progress_bar
from pipeline.params import Labels, Params
from serving.prediction_log.writer import log_url
from serving.release.label_change import labels_of
from serving.release.manifest import model_name, repository
from serving.release.publish import champion

Announce = Callable[[str], None]
LOCK = "flywheel/round.lock"
log = structlog.get_logger()


class KnownTexts(NamedTuple):
    """Texts that need no label or must get none, texts with a proposed label, and the number of labelled texts by class."""

    left_out: frozenset[str]  # content ids
    proposed: frozenset[str]
    labels: dict[str, int]
    fence: Fence | None = None  # that knows on which side of the split a text falls


class SecondOpinions(NamedTuple):
    """Labels of a second model by prediction id, and how often it differs without a reason in the traffic."""

    labels: Mapping[str, str]
    expected: Expected


def make_round(home: Path, params: Params, now: float, *, root: Path = Path(), announce: Announce = lambda _line: None) -> Round:
    """Make a round from the champion's answers and write it; a round that is killed leaves the one before.

    Rounds of a home are made one after another, because each takes all cores for a while. `root` is the working tree whose data
    are trusted. Raises `ToolError` without a champion, and `InputError` with too few answers.
    """
    release = champion(home)
    if release is None:
        raise ToolError(str(home), "no version has been published", "make repro")
    folder = repository(home) / model_name(release.version)
    (home / LOCK).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home / LOCK):
        known = read_known_texts(params, home, root, folder)
        opinions = second_opinions(measure_disagreement(home, params, now))
        collected = collect(params, home, release.version, folder, known, opinions, now, announce)
        made = build_round(collected, known, opinions.expected, read_round(home), params, version=release.version, now=now)
        announce(f"{len(made.candidates)} different texts in {len(made.clusters)} clusters")
        write_round(home, made)
    return made


def collect(
    params: Params,
    home: Path,
    version: int,
    folder: Path,
    known: KnownTexts,
    opinions: SecondOpinions,
    now: float,
    announce: Announce,
) -> LogPass:
    """Return the candidates of the log; raises `InputError` with fewer than `flywheel.min_answers` answers."""
    settings, facts = params.flywheel, read_reference(folder, params)
    criteria = Criteria(
        version=version,
        classes=len(facts.labels),
        sketch_size=facts.sketch_size,
        low_margin=settings.low_margin,
        novelty=facts.novelty,
        second_labels=opinions.labels,
        proposed=known.proposed,
        left_out=known.left_out,
        few_labels=few_labels(facts.labels, known.labels, settings.few_labels),
        sure=settings.sure,
        at_most_sure=round(settings.budget * settings.sure_share),
    )
    url = log_url(params.log, home)
    with progress_bar(
        desc="texts worth a label", total=settings.max_candidates, disable=not sys.stderr.isatty(), leave=False
    ) as bar:
        collected = pass_over_log(
            url,
            criteria,
            since=now - settings.reach_s,
            at_most=settings.max_candidates,
            on_segment=lambda found: bar.update(found - bar.n),
        )
    announce(f"{collected.answers} answers of version {version}: {len(collected.texts)} texts are worth a label")
    if collected.skipped:
        log.warning("unreadable segments skipped", files=collected.skipped)
    if collected.without_text:
        announce(f"{collected.without_text} answers are left out: log.text is hash, so nobody can read their texts")
    if collected.answers < settings.min_answers:
        what = f"version {version} has given {collected.answers} answers, a round needs {settings.min_answers}"
        raise InputError(url, what, "wait for more traffic, or lower flywheel.min_answers in params.yaml")
    return collected


def few_labels(classes: Iterable[str], labels: Mapping[str, int], few: int) -> frozenset[str]:
    """Return the classes with fewer labelled texts; none where no text has a label, because then the data are elsewhere."""
    return frozenset(name for name in classes if labels.get(name, 0) < few) if labels else frozenset()


def build_round(
    collected: LogPass, known: KnownTexts, expected: Expected, previous: Round | None, params: Params, *, version: int, now: float
) -> Round:
    """Return the round. The same input gives the same round, so one that was killed is made again."""
    settings, jaccard = params.flywheel, params.data.near_duplicate_jaccard
    with progress_bar(desc="near copies", total=len(collected.texts), disable=not sys.stderr.isatty(), leave=False) as bar:
        once = ask_once(collected.texts, jaccard, lambda done: bar.update(done - bar.n))
    sketches = collected.sketches[once.rows]
    candidates = [
        _as_candidate(row, sketch, version, known.fence, params) for row, sketch in zip(once.texts, sketches, strict=True)
    ]
    z = NormalDist().inv_cdf(0.5 + params.monitor.confidence / 2)
    compared = Compared(collected.compared, collected.differing, expected, z)
    clustered = cluster_candidates(candidates, sketches, compared, known.labels, previous, version, settings)
    rng = np.random.default_rng(settings.seed)
    order = order_queue(clustered.candidates, known.labels, settings, jaccard, rng)
    ordered = [clustered.candidates[index] for index in order.tolist()]
    return Round(now, version, ordered, clustered.clusters, clustered.next_cluster)


def second_opinions(comparisons: Sequence[ModelComparison]) -> SecondOpinions:
    """Return the answers of the second model that has answered the most texts."""
    if not comparisons:
        return SecondOpinions({}, Expected())
    chosen = max(comparisons, key=lambda comparison: comparison.measurement.compared)
    labels = {pair.champion.prediction_id: pair.second.label for pair in chosen.pairs if pair.second is not None}
    return SecondOpinions(labels, chosen.expected)


def read_known_texts(params: Params, home: Path, root: Path, folder: Path) -> KnownTexts:
    """Read what is labelled, protected or proposed."""
    labels = labels_of(folder)
    return known_texts(read_book(params, home, root, folder, labels), labels, params)


def known_texts(book: LabelBook, labels: Collection[str], params: Params) -> KnownTexts:
    """Leave out rows of the corpus, protected rows, and texts whose label from enough people counts."""
    fence = book.trusted.fence
    rows = {
        text_id(row["text"]): str(row["label"])
        for row in book.merge(labels, params).rows
        if len(row["labellers"]) >= people_needed(row["text"], fence, params.labels) or not row["labellers"]
    }
    classes = {key: row.label for key, row in book.trusted.corpus.items() if key not in book.trusted.protected}
    proposed = {key for key, text in book.opinions.texts.items() if any(given.label not in labels for given in text.opinions)}
    left_out = {*book.trusted.corpus, *book.trusted.protected, *rows}
    return KnownTexts(frozenset(left_out), frozenset(proposed - left_out), dict(Counter((classes | rows).values())), fence)


def people_needed(text: str, fence: Fence | None, settings: Labels) -> int:
    """Return how many people must give a new text its label: where it falls on a measuring side, as many as to overrule one."""
    is_learnt = fence is None or fence.side(text) == "train"
    return settings.new_text_people if is_learnt else settings.overrule_people


def _as_candidate(
    row: FlaggedText, sketch: NDArray[np.float32], version: int, fence: Fence | None, params: Params
) -> LabelCandidate:
    """Return the candidate without its cluster, which is not known yet."""
    return LabelCandidate(
        **row._asdict(),
        version=version,
        cluster=-1,
        is_sure=is_sure(row.label, row.second_label, row.confidence, row.reasons, params.flywheel),
        sketch=encode_sketch(sketch),
        people=people_needed(row.text, fence, params.labels),
    )
