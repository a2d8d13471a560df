"""What a version's alarms are held against, worked out once from its reference: thresholds at the real window size.

The promise is in false alarms per week, over all signals together. Half of it (`window_share`) goes to window statistics, the
rest to e-detectors. Window statistics: one threshold each, at a common level so that P(any of them in one window) is the
promised one (minimum p-value, Westfall and Young 1993); their null draws window AND reference anew, since a finite reference
is off by chance too. E-detectors: Shiryaev-Roberts over conformal p-values, thresholds by the union bound, exact.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors import bbsd, chi_square, kolmogorov_smirnov, mmd
from monitoring.detectors.novelty import tail_excess
from monitoring.drift.features import SIGNALS, Features, columns, fit_features, ranked_cells
from monitoring.drift.window import Rows
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

Floats = NDArray[np.float64]
Means = dict[str, Floats]
BLOCK = 250  # null draws in one go
ROUNDING = 1e-6  # of statistics of equal rows
CUTS = np.array([0.02, 0.05, 0.1, 0.2, 0.5])  # tails of the p-values that are bet on
RISES = np.array([1.5, 2.5, 5.0])  # how many times too many rows there, where that is a probability
LABELS = "prediction_labels"
LABEL_RATIOS = np.array([0.25, 0.5, 1.5, 2.0, 4.0, 8.0])  # of a class's share


class Scores(NamedTuple):
    """S scores that are ranked and bet on one by one, J bets each."""

    signals: tuple[str, ...]  # (S,) the signal of each
    bags: NDArray[np.int64]  # (S, cells) the reference's counts
    cuts: Floats  # (S, J)
    ratios: Floats  # (S, J); 1 where a score has fewer bets
    weights: Floats  # (S, J) of the bets within a score, each row sums to 1
    share: Floats  # (S,) of its signal's promise; those of a signal sum to 1


class Check(NamedTuple):
    """Realised false alarms of window statistics on the A/A half."""

    rows: int  # in each window drawn
    windows: int
    promised: float
    realised: float
    by_signal: dict[str, float]


class Calibrated(NamedTuple):
    """Everything that monitoring one version needs to know of its reference; memory does not depend on the reference's rows."""

    labels: NDArray[np.str_]
    features: Features
    means: Means
    rows: int
    null: Means  # (draws,) a signal, at `window_rows`; drawn together, so that they can be looked at jointly
    level: float  # p-value below which one signal alarms
    thresholds: dict[str, float]
    scores: tuple[Scores, Scores]  # ranked ones, and one a class for the labels
    log_threshold: dict[str, float]  # natural log, that each signal's log e-value is held against
    false_alarms_per_week: dict[str, float]
    check: Check | None


def reference_rows(reference: Reference, mask: NDArray[np.bool_]) -> Rows:
    """Reference rows as the window has them; there are no texts."""
    count = int(mask.sum())
    nothing = np.zeros(count, dtype=np.str_)
    return Rows(
        np.zeros(count), reference.ids[mask], nothing, nothing, reference.pieces[mask], reference.pieces_per_word[mask],
        reference.probabilities[mask], reference.sketch[mask],
    )  # fmt: skip


def calibrate(reference: Reference, settings: Monitor) -> Calibrated | None:
    """Fit, rank and draw; None where fewer than `min_reference_rows` are left to compare with."""
    rng = np.random.default_rng(settings.seed)
    half = reference_rows(reference, reference.calibrate)
    fitted = rng.permutation(len(half.id)) < round(settings.fit_share * len(half.id))
    fit, ranked = half.take(fitted), half.take(~fitted)
    if min(len(fit.id), len(ranked.id)) < settings.min_reference_rows:
        return None
    features = fit_features(fit, settings, rng)
    held = columns(features, ranked)
    means = {name: own.mean(axis=0, dtype=np.float64) for name, own in held.items()}
    null = draw_null(held, settings.window_rows, settings.null_draws, rng)
    level = joint_level(null, window_alpha(settings))
    return Calibrated(
        labels=reference.labels,
        features=features,
        means=means,
        rows=len(ranked.id),
        null=null,
        level=level,
        thresholds={name: threshold_at(own, level) for name, own in null.items()},
        scores=make_scores(ranked_cells(features, ranked), settings),
        log_threshold=log_thresholds(settings),
        false_alarms_per_week=_promise(settings),
        check=_check(held, columns(features, reference_rows(reference, ~reference.calibrate)), settings, rng),
    )


def window_alpha(settings: Monitor) -> float:
    """P(any window statistic alarms in one window): their part of the weekly promise over the windows of a week."""
    windows = settings.expected_rows_per_week / settings.window_rows
    return min(0.5, settings.false_alarms_per_week * settings.window_share / windows)


def log_thresholds(settings: Monitor) -> dict[str, float]:
    """Signals share the e-detectors' part of the promise evenly: rows of a week / (their part / signals)."""
    part = settings.false_alarms_per_week * (1 - settings.window_share) / len(SIGNALS)
    return dict.fromkeys(SIGNALS, float(np.log(settings.expected_rows_per_week / part)))


def statistics(reference: Means, current: Means, rows: tuple[float, float]) -> Means:
    """Each signal's statistic of mean columns (..., columns) of `rows` (reference, current) observations."""
    found = {
        name: kolmogorov_smirnov.ks_distance(reference[name], current[name])
        for name in ("input_length", "input_pieces_per_word", "prediction_confidence")
    }
    found["input_novelty"] = tail_excess(reference["input_novelty"], current["input_novelty"], rows)
    found["input_sketch"] = mmd.squared_mmd(reference["input_sketch"], current["input_sketch"])
    found["prediction_labels"] = chi_square.chi_square(reference["prediction_labels"], current["prediction_labels"], rows)
    found["prediction_softmax"] = bbsd.bbsd_distance(reference["prediction_softmax"], current["prediction_softmax"])
    return {name: found[name] for name in SIGNALS}


def draw_null(held: dict[str, NDArray[np.float32]], window: int, draws: int, rng: np.random.Generator) -> Means:
    """(draws,) a signal: statistics of a window and a reference both drawn with replacement from the held rows."""
    count = len(held[SIGNALS[0]])
    found: dict[str, list[Floats]] = {name: [] for name in SIGNALS}
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        both = [_resampled(count, rows, size, rng) for rows in (count, window)]
        means = [{name: own @ held[name] for name in SIGNALS} for own in both]
        for name, drawn in statistics(means[0], means[1], (count, window)).items():
            found[name].append(drawn)
    return {name: np.concatenate(own) for name, own in found.items()}


def _resampled(count: int, rows: int, draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(draws, count) weights of so many rows drawn with replacement out of `count`; each draw sums to 1."""
    chosen = rng.integers(0, count, (draws, rows), dtype=np.int32) + np.arange(draws, dtype=np.int32)[:, None] * count
    weights = np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count) / rows
    return weights.astype(np.float32)


def joint_level(null: Means, alpha: float) -> float:
    """The p-value (1 + draws at or above) / (1 + draws) of a signal at which P(any signal reaches its own) is at most `alpha`.

    One rank is given away for the draw that is to come. 0, never reached, where `alpha` is finer than the draws can tell.
    """
    draws = np.stack([null[name] for name in SIGNALS])
    count = draws.shape[1]
    ranks = count - np.stack([np.searchsorted(np.sort(own), own, side="left") for own in draws])  # 1: the largest
    smallest = np.sort(ranks.min(axis=0))
    allowed = min(int(np.floor(alpha * (count + 1))), count - 1)
    return float(max(0, smallest[allowed] - 1) / (count + 1))


def threshold_at(null: Floats, level: float) -> float:
    """What a statistic has to exceed for a p-value of at most `level`, and by more than rounding; infinite for level 0."""
    rank = round(level * (len(null) + 1))
    return float(np.sort(null)[::-1][rank - 1]) + ROUNDING if rank else float("inf")


def make_scores(cells: dict[str, NDArray[np.int64]], settings: Monitor) -> tuple[Scores, Scores]:
    """Bags filled with the reference, and bets: on both tails of ranked scores (novelty: the upper), on each class's share."""
    ranked = [(name, column) for name in SIGNALS if name != LABELS for column in cells[name].T]
    bags = [np.bincount(column, minlength=settings.cells) for _, column in ranked]
    tails = _scores([name for name, _ in ranked], bags, [_tail_bets(name) for name, _ in ranked])
    classes = [np.bincount(column, minlength=2) for column in cells[LABELS].T]
    labels = _scores([LABELS] * len(classes), classes, [_label_bets((bag[1] + 0.5) / (bag.sum() + 1)) for bag in classes])
    return tails, labels


def _scores(names: list[str], bags: list[NDArray[np.int64]], bets: list[tuple[Floats, Floats]]) -> Scores:
    """Bets padded to one length by some that pay 1 and have no weight."""
    longest = max(len(cuts) for cuts, _ in bets)
    missing = [longest - len(cuts) for cuts, _ in bets]
    return Scores(
        signals=tuple(names),
        bags=np.stack(bags),
        cuts=np.stack([np.pad(cuts, (0, more), constant_values=0.5) for (cuts, _), more in zip(bets, missing, strict=True)]),
        ratios=np.stack([np.pad(own, (0, more), constant_values=1.0) for (_, own), more in zip(bets, missing, strict=True)]),
        weights=np.stack([np.pad(np.full(longest - more, 1 / (longest - more)), (0, more)) for more in missing]),
        share=np.array([1 / names.count(name) for name in names]),
    )


def _tail_bets(name: str) -> tuple[Floats, Floats]:
    """(J,) cuts and ratios: 1.5 to 5 times too many p-values below a cut; mirrored, too many above 1 − cut."""
    cut, rise = (own.ravel() for own in np.meshgrid(CUTS, RISES))
    possible = cut * rise < 0.95
    cut, rise = cut[possible], rise[possible]
    if name == "input_novelty":
        return cut, rise
    return np.concatenate([cut, 1 - cut]), np.concatenate([rise, (1 - rise * cut) / (1 - cut)])


def _label_bets(share: float) -> tuple[Floats, Floats]:
    """Bets on a class being said so many times as often as in the reference."""
    ratios = LABEL_RATIOS[LABEL_RATIOS * share < 0.95]
    return np.full(len(ratios), share), ratios


def _promise(settings: Monitor) -> dict[str, float]:
    """False alarms per week by signal: its part of the e-detectors' promise; `window` is that of the window statistics."""
    part = settings.false_alarms_per_week * (1 - settings.window_share) / len(SIGNALS)
    return {"window": settings.false_alarms_per_week * settings.window_share, **dict.fromkeys(SIGNALS, part)}


def _check(
    held: dict[str, NDArray[np.float32]], other: dict[str, NDArray[np.float32]], settings: Monitor, rng: np.random.Generator
) -> Check | None:
    """Windows drawn without replacement from the A/A half, at `check_level`, which so few rows can show; None: too few rows.

    The rate belongs to this one reference: it scatters around the promise, which is a mean over references, more so the fewer
    rows the reference has.
    """
    count = len(other[SIGNALS[0]])
    size = min(settings.window_rows, count // 2)
    if size < settings.min_reference_rows:
        return None
    null = draw_null(held, size, settings.null_draws, rng)
    level = joint_level(null, settings.check_level)
    limits = {name: threshold_at(null[name], level) for name in SIGNALS}
    chosen = np.argsort(rng.random((settings.check_draws, count)), axis=1)[:, :size]
    drawn = np.zeros((settings.check_draws, count), dtype=np.float32)
    np.put_along_axis(drawn, chosen, 1 / size, axis=1)
    means = {name: held[name].mean(axis=0, dtype=np.float64) for name in SIGNALS}
    seen = statistics(means, {name: drawn @ other[name] for name in SIGNALS}, (len(held[SIGNALS[0]]), size))
    above = {name: seen[name] > limits[name] for name in SIGNALS}
    any_above = np.stack(list(above.values())).any(axis=0)
    return Check(size, settings.check_draws, settings.check_level, float(any_above.mean()),
                 {name: float(own.mean()) for name, own in above.items()})  # fmt: skip
