"""From rows to evidence: the state that every row updates, and the report on a window. Pure: who looks, and when, is not known.

One alarm is for people: what moved, by how much, which words, which texts.
"""

import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.conformal import p_values
from monitoring.detectors.e_detector import shiryaev_roberts
from monitoring.detectors.e_process import tail_payoffs
from monitoring.detectors.novelty import out_of_distribution_share
from monitoring.drift.calibration import Calibrated, Means, Scores, statistics
from monitoring.drift.features import SIGNALS, columns, ranked_cells
from monitoring.drift.window import Rows, usable
from pipeline.params import Monitor

Floats = NDArray[np.float64]
CHUNK = 250  # rows whose payoffs are in memory at a time
WORD = re.compile(r"[^\W\d_]{3,}")


class Evidence(NamedTuple):
    """The e-detectors after `rows` rows of a version's stream, in the order of its scores; to be kept across restarts."""

    rows: int
    bags: tuple[NDArray[np.int64], ...]  # (S, cells) each
    wealth: tuple[Floats, ...]  # (S, J) each: the Shiryaev-Roberts statistic of every bet


class Moved(NamedTuple):
    """A word, the share of texts that hold it now and before."""

    word: str
    now: float
    before: float


class Signal(NamedTuple):
    """One signal in one window. `p` and `value` are NaN-free: None where there is not enough data."""

    name: str
    value: float | None
    threshold: float
    p: float | None
    effect: float | None
    effect_unit: str
    log_e: float
    log_threshold: float
    alarm: Literal["none", "window", "stream", "both"]


class Report(NamedTuple):
    """What a window says; `state` other than `watching` alarms on nothing that a window says."""

    state: Literal["watching", "not enough data"]
    rows: int
    wanted: int
    signals: tuple[Signal, ...]
    out_of_distribution_share: float | None  # estimated share of rows unlike the reference
    words: tuple[Moved, ...]
    examples: tuple[str, ...]

    @property
    def alarms(self) -> tuple[Signal, ...]:
        """The signals that alarm."""
        return tuple(signal for signal in self.signals if signal.alarm != "none")


def start(calibrated: Calibrated) -> Evidence:
    """No evidence yet; the bag is the reference."""
    scores = calibrated.scores
    return Evidence(0, tuple(own.bags for own in scores), tuple(np.zeros(own.cuts.shape) for own in scores))


def update(calibrated: Calibrated, evidence: Evidence, rows: Rows, settings: Monitor) -> tuple[Evidence, dict[str, float]]:
    """Evidence after these independent rows, and each signal's highest log e-value among them (natural log, −inf without rows).

    Rows of which no statistic can be taken are passed over. Ties are broken by a hash of the row's id: a replay says the same.
    """
    rows = rows.take(usable(rows))
    ceiling = settings.ceiling * float(np.exp(max(calibrated.log_threshold.values())))
    peak = dict.fromkeys(SIGNALS, -np.inf)
    for first in range(0, len(rows.id), CHUNK):
        chunk = rows.take(slice(first, first + CHUNK))
        cells = ranked_cells(calibrated.features, chunk)
        bags, wealth = [], []
        for scores, bag, own in zip(calibrated.scores, evidence.bags, evidence.wealth, strict=True):
            every = np.concatenate([cells[name] for name in dict.fromkeys(scores.signals)], axis=1)
            p, later = p_values(every, bag, uniforms(chunk.id.tolist(), scores.signals, every.shape[1]))
            limits = ceiling / scores.share[:, None]
            statistic, last = shiryaev_roberts(tail_payoffs(p, scores.cuts, scores.ratios), own, limits)
            bags.append(later)
            wealth.append(last)
            _raise(peak, _by_signal(scores, (statistic * scores.weights).sum(axis=2).max(axis=0)))
        evidence = Evidence(evidence.rows + len(chunk.id), tuple(bags), tuple(wealth))
    return evidence, peak


def log_e(calibrated: Calibrated, evidence: Evidence) -> dict[str, float]:
    """Each signal's log e-value now: the best of its scores, less what their number costs."""
    found = dict.fromkeys(SIGNALS, -np.inf)
    for scores, wealth in zip(calibrated.scores, evidence.wealth, strict=True):
        _raise(found, _by_signal(scores, (wealth * scores.weights).sum(axis=1)))
    return found


def check(calibrated: Calibrated, window: Rows, evidence: dict[str, float], earlier: Sequence[str], settings: Monitor) -> Report:
    """The report on a window of independent rows, beside the evidence of the stream (`update`'s or `log_e`'s).

    `earlier` are texts of the version's first windows, which words are compared with: a reference keeps no texts.
    """
    window = window.take(usable(window))
    enough = len(window.id) >= settings.window_rows
    means: Means | None = None
    values: dict[str, float] = {}
    if enough:
        held = columns(calibrated.features, window)
        means = {name: own.mean(axis=0, dtype=np.float64) for name, own in held.items()}
        found = statistics(calibrated.means, means, (calibrated.rows, len(window.id)))
        values = {name: float(own) for name, own in found.items()}
    signals = tuple(_signal(calibrated, name, values.get(name), means, evidence[name]) for name in SIGNALS)
    share = out_of_distribution_share(calibrated.means["input_novelty"], means["input_novelty"]) if means else None
    alarmed = any(signal.alarm != "none" for signal in signals)
    texts, novelty = window.text.tolist(), calibrated.features.novelty(window.sketch, window.probabilities)
    return Report(
        state="watching" if enough else "not enough data",
        rows=len(window.id),
        wanted=settings.window_rows,
        signals=signals,
        out_of_distribution_share=share,
        words=words_that_moved(texts, earlier, settings.words) if alarmed else (),
        examples=most_novel(texts, novelty, settings.examples) if alarmed else (),
    )


def words_that_moved(now: Sequence[str], before: Sequence[str], count: int) -> tuple[Moved, ...]:
    """Words whose share of texts differs most between two sets of texts, by the z of two smoothed proportions; |z| at least 2."""
    if not now or not before:
        return ()
    seen = [Counter(word for text in texts for word in set(WORD.findall(text.casefold()))) for texts in (now, before)]
    n, m = len(now), len(before)

    def z(word: str) -> float:
        p, q = (seen[0][word] + 0.5) / (n + 1), (seen[1][word] + 0.5) / (m + 1)
        pooled = (seen[0][word] + seen[1][word] + 1) / (n + m + 2)
        return float((p - q) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)))

    ordered = sorted(set(seen[0]) | set(seen[1]), key=lambda word: (-abs(z(word)), word))
    moved = [word for word in ordered[:count] if abs(z(word)) >= 2]
    return tuple(Moved(word, seen[0][word] / n, seen[1][word] / m) for word in moved)


def most_novel(texts: Sequence[str], novelty: Floats, count: int) -> tuple[str, ...]:
    """The texts least like the reference, each once whatever its case."""
    found: dict[str, str] = {}
    for row in np.argsort(-novelty, kind="stable"):
        found.setdefault(texts[row].casefold(), texts[row])
        if len(found) == count:
            break
    return tuple(found.values())


def uniforms(ids: Sequence[str], salt: Sequence[str], streams: int) -> Floats:
    """(N, streams) numbers in [0, 1) that only the ids and the salt decide."""
    key = "".join(salt).encode()[:64]
    seeds = [int.from_bytes(blake2b(own.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest(), "big") for own in ids]
    steps = np.arange(1, streams + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = np.array(seeds, dtype=np.uint64)[:, None] + steps  # SplitMix64 (Steele, Lea and Flood 2014)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) / 2.0**53


def _by_signal(scores: Scores, wealth: Floats) -> dict[str, float]:
    """Union bound within a signal: of a score's wealth (S,) counts its part of the signal's promise."""
    logs = np.log(np.maximum(wealth * scores.share, 1e-300)).tolist()
    found: dict[str, float] = {}
    for name, own in zip(scores.signals, logs, strict=True):
        found[name] = max(own, found.get(name, -np.inf))
    return found


def _raise(peak: dict[str, float], found: dict[str, float]) -> None:
    for name, own in found.items():
        peak[name] = max(peak[name], own)


def _signal(calibrated: Calibrated, name: str, value: float | None, means: Means | None, evidence: float) -> Signal:
    limit, threshold = calibrated.log_threshold[name], calibrated.thresholds[name]
    in_window, in_stream = value is not None and value > threshold, evidence >= limit
    null = calibrated.null[name]
    p = None if value is None else float((1 + (null >= value).sum()) / (1 + len(null)))
    effect, unit = (None, "") if means is None else effect_size(calibrated, name, means)
    alarm: Literal["none", "window", "stream", "both"] = "none"
    if in_window or in_stream:
        alarm = "both" if in_window and in_stream else "window" if in_window else "stream"
    return Signal(name, value, threshold, p, effect, unit, evidence, limit, alarm)


def effect_size(calibrated: Calibrated, name: str, means: Means) -> tuple[float, str]:
    """How large a change is, in a unit that does not grow with rows."""
    before, now = calibrated.means[name], means[name]
    if name == "input_novelty":
        return out_of_distribution_share(before, now), "share of texts unlike the reference"
    if name == "input_sketch":
        inside = max(1.0 - float((before**2).sum()), 1e-9)  # the kernel's own variance, k(x, x) = 1
        return float(np.sqrt(((now - before) ** 2).sum() / inside)), "standard deviations in kernel space"
    if name == "prediction_labels":
        return float(np.abs(now - before).sum() / 2), "share of answers that would have to change class"
    if name == "prediction_softmax":
        return float(statistics({**calibrated.means}, means, (1, 1))[name]), "largest distance of a class's probabilities"
    return float(np.cumsum(before - now)[np.argmax(np.abs(np.cumsum(before - now)))]), "shift of the distribution, up is positive"
