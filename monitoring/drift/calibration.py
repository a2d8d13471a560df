"""Thresholds of a version's alarms, calibrated once from its reference at the real window size.

The promise is a rate of false alarms per week over all signals together. Window statistics get a part of it (`window_share`),
e-detectors the rest. Window statistics have one threshold each, at a common level at which P(any of them alarms in one window)
is the promised one (minimum p-value, Westfall and Young 1993). Their null distribution redraws window and reference, since a
finite reference deviates by chance too. E-detectors are Shiryaev-Roberts over conformal p-values, with exact thresholds by the
union bound.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors import bbsd, chi_square, kolmogorov_smirnov, mmd
from monitoring.detectors.novelty import tail_excess
from monitoring.drift.features import SIGNALS, FittedFeatures, fit_features, ranked_cells, window_columns
from monitoring.drift.histogram_distances import ReferenceHistograms, fit_histograms
from monitoring.drift.window import PredictionRows
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[np.float32]]
Means = dict[str, Floats]
BLOCK = 250  # null draws at a time
ROUNDING = 1e-6  # of statistics of equal rows
CUTS = np.array([0.02, 0.05, 0.1, 0.2, 0.5])  # tails of the p-values that are bet on
RISES = np.array([1.5, 2.5, 5.0])  # how many times too many rows there, where that is a probability
LABELS = "prediction_labels"
LABEL_RATIOS = np.array([0.25, 0.5, 1.5, 2.0, 4.0, 8.0])  # of a class's share


class Scores(NamedTuple):
    """S scores, each ranked and bet on by itself, with J bets each."""

    signals: tuple[str, ...]  # (S,) the signal of each
    bags: NDArray[np.int64]  # (S, cells) the reference's counts
    cuts: Floats  # (S, J)
    ratios: Floats  # (S, J); 1 where a score has fewer bets
    weights: Floats  # (S, J) of the bets within a score, each row sums to 1
    share: Floats  # (S,) of its signal's promise; those of a signal sum to 1


class FalseAlarmCheck(NamedTuple):
    """Realised false alarms of window statistics on the A/A half."""

    rows: int  # in each drawn window
    windows: int
    promised: float
    realised: float
    by_signal: dict[str, float]


class Calibration(NamedTuple):
    """Facts of the reference that monitoring one version needs; memory does not depend on the reference's rows."""

    labels: NDArray[np.str_]
    features: FittedFeatures
    histograms: ReferenceHistograms
    means: Means
    rows: int
    null: Means  # (draws,) per signal, at `window_rows`; drawn together, so that they can be read jointly
    level: float  # p-value below which one signal alarms
    thresholds: dict[str, float]
    scores: tuple[Scores, Scores]  # of ranked scores, and one per class for the labels
    log_threshold: dict[str, float]  # natural log, of each signal's log e-value
    false_alarms_per_week: dict[str, float]
    check: FalseAlarmCheck | None


def reference_rows(reference: Reference, mask: NDArray[np.bool_]) -> PredictionRows:
    """Return reference rows as rows of a window; they have no texts."""
    count = int(mask.sum())
    empty = np.zeros(count, dtype=np.str_)
    return PredictionRows(
        np.zeros(count), reference.ids[mask], empty, empty, reference.pieces[mask], reference.pieces_per_word[mask],
        reference.probabilities[mask], reference.sketch[mask],
    )  # fmt: skip


def calibrate(reference: Reference, settings: Monitor) -> Calibration | None:
    """Fit, rank and draw; None if fewer than `min_reference_rows` remain to compare with."""
    rng = np.random.default_rng(settings.seed)
    half = reference_rows(reference, reference.calibrate)
    is_fitted = rng.permutation(len(half.id)) < round(settings.fit_share * len(half.id))
    fitted, ranked = half.take(is_fitted), half.take(~is_fitted)
    if min(len(fitted.id), len(ranked.id)) < settings.min_reference_rows:
        return None
    features = fit_features(fitted, settings, rng)
    columns = window_columns(features, ranked)
    null = draw_null(columns, settings.window_rows, settings.null_draws, rng)
    level = joint_level(null, window_alpha(settings))
    return Calibration(
        labels=reference.labels,
        features=features,
        histograms=fit_histograms(half),
        means=mean_columns(columns),
        rows=len(ranked.id),
        null=null,
        level=level,
        thresholds={name: threshold_at(draws, level) for name, draws in null.items()},
        scores=make_scores(ranked_cells(features, ranked), settings),
        log_threshold=log_thresholds(settings),
        false_alarms_per_week=_promised_false_alarms(settings),
        check=_check(columns, window_columns(features, reference_rows(reference, ~reference.calibrate)), settings, rng),
    )


def mean_columns(columns: Columns) -> Means:
    """Return the means (columns,) of each signal's columns (N, columns)."""
    return {name: column.mean(axis=0, dtype=np.float64) for name, column in columns.items()}


def window_alpha(settings: Monitor) -> float:
    """Return P(any window statistic alarms in one window): their part of the weekly promise over the windows of a week."""
    windows = settings.expected_rows_per_week / settings.window_rows
    return min(0.5, settings.false_alarms_per_week * settings.window_share / windows)


def log_thresholds(settings: Monitor) -> dict[str, float]:
    """Return log(rows of a week / promise) of each signal; signals share the e-detectors' part of the promise evenly."""
    return dict.fromkeys(SIGNALS, float(np.log(settings.expected_rows_per_week / _promise_of_a_signal(settings))))


def window_statistics(reference: Means, current: Means, rows: tuple[float, float]) -> Means:
    """Return each signal's statistic of mean columns (..., columns) of `rows` (reference, current) observations."""
    values = {
        name: kolmogorov_smirnov.ks_distance(reference[name], current[name])
        for name in ("input_length", "input_pieces_per_word", "prediction_confidence")
    }
    values["input_novelty"] = tail_excess(reference["input_novelty"], current["input_novelty"], rows)
    values["input_sketch"] = mmd.squared_mmd(reference["input_sketch"], current["input_sketch"])
    values["prediction_labels"] = chi_square.chi_square(reference["prediction_labels"], current["prediction_labels"], rows)
    values["prediction_softmax"] = bbsd.bbsd_distance(reference["prediction_softmax"], current["prediction_softmax"])
    return {name: values[name] for name in SIGNALS}


def draw_null(columns: Columns, window: int, draws: int, rng: np.random.Generator) -> Means:
    """Return (draws,) statistics per signal of a window and a reference, both drawn with replacement from these rows."""
    count = len(columns[SIGNALS[0]])
    blocks: dict[str, list[Floats]] = {name: [] for name in SIGNALS}
    for first in range(0, draws, BLOCK):
        size = min(BLOCK, draws - first)
        weights = [_resampled(count, rows, size, rng) for rows in (count, window)]
        reference, current = ({name: weight @ columns[name] for name in SIGNALS} for weight in weights)
        for name, values in window_statistics(reference, current, (count, window)).items():
            blocks[name].append(values)
    return {name: np.concatenate(values) for name, values in blocks.items()}


def _resampled(count: int, rows: int, draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return weights (draws, count) of so many rows drawn with replacement out of `count`; each draw sums to 1."""
    chosen = rng.integers(0, count, (draws, rows), dtype=np.int32) + np.arange(draws, dtype=np.int32)[:, None] * count
    weights = np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count) / rows
    return weights.astype(np.float32)


def joint_level(null: Means, alpha: float) -> float:
    """Return the p-value (1 + draws at or above) / (1 + draws) at which P(any signal reaches its own) is at most `alpha`.

    One rank is given away for the draw to come. 0, which is never reached, if `alpha` is finer than the draws can resolve.
    """
    draws = np.stack([null[name] for name in SIGNALS])
    count = draws.shape[1]
    ranks = count - np.stack([np.searchsorted(np.sort(values), values, side="left") for values in draws])  # 1: the largest
    smallest = np.sort(ranks.min(axis=0))
    allowed = min(int(np.floor(alpha * (count + 1))), count - 1)
    return float(max(0, smallest[allowed] - 1) / (count + 1))


def threshold_at(null: Floats, level: float) -> float:
    """Return what a statistic has to exceed, by more than rounding, for a p-value of at most `level`; infinite for level 0."""
    rank = round(level * (len(null) + 1))
    return float(np.sort(null)[::-1][rank - 1]) + ROUNDING if rank else float("inf")


def make_scores(cells: dict[str, NDArray[np.int64]], settings: Monitor) -> tuple[Scores, Scores]:
    """Return the e-detectors' scores (of ranked cells, of labels), their bags filled with the reference and their bets placed.

    Bets on ranked scores are on both tails (for novelty on the upper one), and those on labels are on the share of each class.
    """
    ranked = [(name, column) for name in SIGNALS if name != LABELS for column in cells[name].T]
    bags = [np.bincount(column, minlength=settings.cells) for _, column in ranked]
    tails = _scores([name for name, _ in ranked], bags, [_tail_bets(name) for name, _ in ranked])
    classes = [np.bincount(column, minlength=2) for column in cells[LABELS].T]
    labels = _scores([LABELS] * len(classes), classes, [_label_bets((bag[1] + 0.5) / (bag.sum() + 1)) for bag in classes])
    return tails, labels


def _scores(names: list[str], bags: list[NDArray[np.int64]], bets: list[tuple[Floats, Floats]]) -> Scores:
    """Pad bets to one length with bets that pay 1 and have no weight."""
    longest = max(len(cuts) for cuts, _ in bets)
    missing = [longest - len(cuts) for cuts, _ in bets]
    return Scores(
        signals=tuple(names),
        bags=np.stack(bags),
        cuts=np.stack([np.pad(cuts, (0, more), constant_values=0.5) for (cuts, _), more in zip(bets, missing, strict=True)]),
        ratios=np.stack([np.pad(odds, (0, more), constant_values=1.0) for (_, odds), more in zip(bets, missing, strict=True)]),
        weights=np.stack([np.pad(np.full(longest - more, 1 / (longest - more)), (0, more)) for more in missing]),
        share=np.array([1 / names.count(name) for name in names]),
    )


def _tail_bets(name: str) -> tuple[Floats, Floats]:
    """Return cuts and ratios (J,): 1.5 to 5 times too many p-values below a cut and, mirrored, above 1 − cut."""
    cut, rise = (grid.ravel() for grid in np.meshgrid(CUTS, RISES))
    possible = cut * rise < 0.95
    cut, rise = cut[possible], rise[possible]
    if name == "input_novelty":
        return cut, rise
    return np.concatenate([cut, 1 - cut]), np.concatenate([rise, (1 - rise * cut) / (1 - cut)])


def _label_bets(share: float) -> tuple[Floats, Floats]:
    """Return bets on a class being predicted LABEL_RATIOS times as often as in the reference."""
    ratios = LABEL_RATIOS[LABEL_RATIOS * share < 0.95]
    return np.full(len(ratios), share), ratios


def _promised_false_alarms(settings: Monitor) -> dict[str, float]:
    """Return false alarms per week: each signal's part of the e-detectors' promise, and `window`, that of window statistics."""
    window = settings.false_alarms_per_week * settings.window_share
    return {"window": window, **dict.fromkeys(SIGNALS, _promise_of_a_signal(settings))}


def _promise_of_a_signal(settings: Monitor) -> float:
    return settings.false_alarms_per_week * (1 - settings.window_share) / len(SIGNALS)


def _check(reference: Columns, other: Columns, settings: Monitor, rng: np.random.Generator) -> FalseAlarmCheck | None:
    """Draw windows without replacement from the A/A half, at `check_level`, which so few rows can show; None for too few rows.

    The rate belongs to this one reference. It scatters around the promise, which is a mean over references, and the more so the
    fewer rows the reference has.
    """
    count = len(other[SIGNALS[0]])
    size = min(settings.window_rows, count // 2)
    if size < settings.min_reference_rows:
        return None
    null = draw_null(reference, size, settings.null_draws, rng)
    level = joint_level(null, settings.check_level)
    limits = {name: threshold_at(null[name], level) for name in SIGNALS}
    chosen = np.argsort(rng.random((settings.check_draws, count)), axis=1)[:, :size]
    weights = np.zeros((settings.check_draws, count), dtype=np.float32)
    np.put_along_axis(weights, chosen, 1 / size, axis=1)
    current = {name: weights @ other[name] for name in SIGNALS}
    values = window_statistics(mean_columns(reference), current, (len(reference[SIGNALS[0]]), size))
    above = {name: values[name] > limits[name] for name in SIGNALS}
    any_above = np.stack(list(above.values())).any(axis=0)
    by_signal = {name: float(flags.mean()) for name, flags in above.items()}
    return FalseAlarmCheck(size, settings.check_draws, settings.check_level, float(any_above.mean()), by_signal)
