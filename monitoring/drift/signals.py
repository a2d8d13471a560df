"""Evidence on each signal, updated by every row, and the report on a window. Pure: the caller decides when to read them.

An alarm is made for people: which signal moved, by how much, which words, which texts.
"""

import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.bbsd import bbsd_distance
from monitoring.detectors.conformal import p_values
from monitoring.detectors.e_detector import shiryaev_roberts
from monitoring.detectors.e_process import tail_payoffs
from monitoring.detectors.novelty import out_of_distribution_share
from monitoring.drift.calibration import Calibration, Means, Scores, mean_columns, window_statistics
from monitoring.drift.features import SIGNALS, ranked_cells, window_columns
from monitoring.drift.histogram_distances import HistogramDistance, histogram_distances
from monitoring.drift.window import PredictionRows, usable
from pipeline.params import Monitor

Floats = NDArray[np.float64]
LogE = dict[str, float]  # natural log of each signal's e-value
Alarm = Literal["none", "window", "stream", "both"]
CHUNK = 250  # rows whose payoffs are in memory at a time
WORD = re.compile(r"[^\W\d_]{3,}")


class Evidence(NamedTuple):
    """State of the e-detectors after `rows` rows of a version's stream, in the order of its scores; survives restarts."""

    rows: int
    bags: tuple[NDArray[np.int64], ...]  # (S, cells) each
    wealth: tuple[Floats, ...]  # (S, J) each: the Shiryaev-Roberts statistic of every bet


class WordShift(NamedTuple):
    """A word and the share of texts that contain it, now and before."""

    word: str
    now: float
    before: float


class SignalResult(NamedTuple):
    """One signal in one window. `value`, `p` and `effect` are never NaN: None where there is not enough data."""

    name: str
    value: float | None
    threshold: float
    p: float | None
    effect: float | None  # in the unit that `effect_size` documents
    log_e: float
    log_threshold: float
    alarm: Alarm


class WindowReport(NamedTuple):
    """Results of a window; in a state other than `watching`, no window statistic alarms."""

    state: Literal["watching", "not enough data"]
    rows: int
    wanted: int
    signals: tuple[SignalResult, ...]
    out_of_distribution_share: float | None  # estimated share of rows unlike the reference
    distances: dict[str, HistogramDistance]  # of the binned signals; empty where there is not enough data
    words: tuple[WordShift, ...]
    examples: tuple[str, ...]

    @property
    def alarms(self) -> tuple[SignalResult, ...]:
        """Return the signals that alarm."""
        return tuple(signal for signal in self.signals if signal.alarm != "none")


def initial_evidence(calibration: Calibration) -> Evidence:
    """Return the state before the first row; the bags hold the reference."""
    scores = calibration.scores
    return Evidence(0, tuple(part.bags for part in scores), tuple(np.zeros(part.cuts.shape) for part in scores))


def update_evidence(
    calibration: Calibration, evidence: Evidence, rows: PredictionRows, settings: Monitor
) -> tuple[Evidence, LogE]:
    """Return the evidence after these independent rows, and each signal's highest log e-value among them (−inf without rows).

    Rows without a statistic are passed over. Ties are broken by a hash of the row's id, so that a replay gives the same result.
    """
    rows = rows.take(usable(rows))
    ceiling = settings.ceiling * float(np.exp(max(calibration.log_threshold.values())))
    peak = dict.fromkeys(SIGNALS, -np.inf)
    for first in range(0, len(rows.id), CHUNK):
        chunk = rows.take(slice(first, first + CHUNK))
        cells_by_signal = ranked_cells(calibration.features, chunk)
        bags, wealth = [], []
        for scores, bag, start in zip(calibration.scores, evidence.bags, evidence.wealth, strict=True):
            cells = np.concatenate([cells_by_signal[name] for name in dict.fromkeys(scores.signals)], axis=1)
            p, next_bag = p_values(cells, bag, hashed_uniforms(chunk.id.tolist(), scores.signals, cells.shape[1]))
            limits = ceiling / scores.share[:, None]
            statistic, last = shiryaev_roberts(tail_payoffs(p, scores.cuts, scores.ratios), start, limits)
            bags.append(next_bag)
            wealth.append(last)
            _raise_peaks(peak, _log_e_by_signal(scores, (statistic * scores.weights).sum(axis=2).max(axis=0)))
        evidence = Evidence(evidence.rows + len(chunk.id), tuple(bags), tuple(wealth))
    return evidence, peak


def log_e_values(calibration: Calibration, evidence: Evidence) -> LogE:
    """Return each signal's current log e-value: that of its best score, less the cost of their number."""
    values = dict.fromkeys(SIGNALS, -np.inf)
    for scores, wealth in zip(calibration.scores, evidence.wealth, strict=True):
        _raise_peaks(values, _log_e_by_signal(scores, (wealth * scores.weights).sum(axis=1)))
    return values


def evaluate_window(
    calibration: Calibration, window: PredictionRows, log_e: LogE, earlier: Sequence[str], settings: Monitor
) -> WindowReport:
    """Report on a window of independent rows, together with the stream's log e-values.

    `earlier` are texts of the version's first windows, which words are compared with: a reference keeps no texts.
    """
    window = window.take(usable(window))
    is_full = len(window.id) >= settings.window_rows
    means: Means | None = None
    values: dict[str, float] = {}
    if is_full:
        means = mean_columns(window_columns(calibration.features, window))
        statistics = window_statistics(calibration.means, means, (calibration.rows, len(window.id)))
        values = {name: float(statistic) for name, statistic in statistics.items()}
    signals = tuple(_signal_result(calibration, name, values.get(name), means, log_e[name]) for name in SIGNALS)
    has_alarm = any(signal.alarm != "none" for signal in signals)
    texts, novelty = window.text.tolist(), calibration.features.novelty(window.sketch, window.probabilities)
    return WindowReport(
        state="watching" if is_full else "not enough data",
        rows=len(window.id),
        wanted=settings.window_rows,
        signals=signals,
        out_of_distribution_share=(
            out_of_distribution_share(calibration.means["input_novelty"], means["input_novelty"]) if means else None
        ),
        distances=histogram_distances(calibration.histograms, window) if is_full else {},
        words=shifted_words(texts, earlier, settings.words) if has_alarm else (),
        examples=most_novel_texts(texts, novelty, settings.examples) if has_alarm else (),
    )


def shifted_words(now: Sequence[str], before: Sequence[str], count: int) -> tuple[WordShift, ...]:
    """Return words whose share of texts differs most between two sets of texts, by the z of two smoothed proportions; |z| ≥ 2."""
    if not now or not before:
        return ()
    counts = [Counter(word for text in texts for word in set(WORD.findall(text.casefold()))) for texts in (now, before)]
    n, m = len(now), len(before)

    def z(word: str) -> float:
        p, q = (counts[0][word] + 0.5) / (n + 1), (counts[1][word] + 0.5) / (m + 1)
        pooled = (counts[0][word] + counts[1][word] + 1) / (n + m + 2)
        return float((p - q) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)))

    ordered = sorted(set(counts[0]) | set(counts[1]), key=lambda word: (-abs(z(word)), word))
    shifted = [word for word in ordered[:count] if abs(z(word)) >= 2]
    return tuple(WordShift(word, counts[0][word] / n, counts[1][word] / m) for word in shifted)


def most_novel_texts(texts: Sequence[str], novelty: Floats, count: int) -> tuple[str, ...]:
    """Return the texts least like the reference, each once whatever its case."""
    distinct: dict[str, str] = {}
    for row in np.argsort(-novelty, kind="stable"):
        distinct.setdefault(texts[row].casefold(), texts[row])
        if len(distinct) == count:
            break
    return tuple(distinct.values())


def hashed_uniforms(ids: Sequence[str], salt: Sequence[str], streams: int) -> Floats:
    """Return numbers in [0, 1), (N, streams), that depend on the ids and the salt alone."""
    key = "".join(salt).encode()[:64]
    digests = [blake2b(row_id.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest() for row_id in ids]
    seeds = np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
    steps = np.arange(1, streams + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = seeds[:, None] + steps  # SplitMix64 (Steele, Lea and Flood 2014)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) / 2.0**53


def _log_e_by_signal(scores: Scores, wealth: Floats) -> LogE:
    """Return the best log e-value of each signal; a score's wealth (S,) counts by its part of the promise (union bound)."""
    logs = np.log(np.maximum(wealth * scores.share, 1e-300)).tolist()
    best: LogE = {}
    for name, log_e in zip(scores.signals, logs, strict=True):
        best[name] = max(log_e, best.get(name, -np.inf))
    return best


def _raise_peaks(peak: LogE, values: LogE) -> None:
    for name, value in values.items():
        peak[name] = max(peak[name], value)


def _signal_result(calibration: Calibration, name: str, value: float | None, means: Means | None, log_e: float) -> SignalResult:
    log_threshold, threshold = calibration.log_threshold[name], calibration.thresholds[name]
    null = calibration.null[name]
    p = None if value is None else float((1 + (null >= value).sum()) / (1 + len(null)))
    effect = None if means is None else effect_size(calibration, name, means)
    alarm = alarm_kind(in_window=value is not None and value > threshold, in_stream=log_e >= log_threshold)
    return SignalResult(name, value, threshold, p, effect, log_e, log_threshold, alarm)


def alarm_kind(*, in_window: bool, in_stream: bool) -> Alarm:
    """Name the alarm of a signal by what passed its threshold."""
    if in_window and in_stream:
        return "both"
    return "window" if in_window else "stream" if in_stream else "none"


def effect_size(calibration: Calibration, name: str, means: Means) -> float:
    """Return the size of a change, which does not grow with the number of rows.

    Novelty: share of texts unlike the reference. Sketch: standard deviations in kernel space. Labels: share of predictions that
    would have to change class. Softmax: largest KS distance of a class's probabilities. Others: shift of the distribution
    function, positive for higher values.
    """
    before, now = calibration.means[name], means[name]
    if name == "input_novelty":
        return out_of_distribution_share(before, now)
    if name == "input_sketch":
        variance = max(1.0 - float((before**2).sum()), 1e-9)  # the kernel's own variance, k(x, x) = 1
        return float(np.sqrt(((now - before) ** 2).sum() / variance))
    if name == "prediction_labels":
        return float(np.abs(now - before).sum() / 2)
    if name == "prediction_softmax":
        return float(bbsd_distance(before, now))
    gaps = np.cumsum(before - now)
    return float(gaps[np.argmax(np.abs(gaps))])
