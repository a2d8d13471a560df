"""How right the answers are: from labels that came back, without any, and whether harm is proved. Pure.

Without labels the estimate rests on what labels alone can check: that texts which look foreign are answered wrongly, and spoilt
ones as the reference's spoilt texts were. Bounds hold where it is the other way round, and are the wider the less of a window is
like anything that was seen when the version was made.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.e_process import bernoulli_payoffs, log_wealth_of_restarts
from monitoring.detectors.kolmogorov_smirnov import ks_distance
from monitoring.detectors.label_shift import bbse_shares, em_shares
from monitoring.drift.calibration import reference_rows
from monitoring.drift.text_kinds import (
    AS_KNOWN,
    FAR,
    FOREIGN,
    SPOILT,
    Kinds,
    cells_explained,
    fit_kinds,
    fitted_half,
    looks,
    right_if_spoilt,
)
from monitoring.drift.window import Rows, usable
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
SUSPECTED_RATIOS = np.array([1.2, 1.4, 1.7, 2.2, 3.5])  # of the tolerated rate of errors, that are bet on
EM_ROUNDS, EM_TOLERANCE, BBSE_RIDGE = 100, 1e-5, 1e-3
KS_NOISE = 1.63  # times the root of 1/n + 1/m: exceeded once in a hundred where nothing differs (Smirnov 1948)


class Known(NamedTuple):
    """What a version's reference says of its answers; memory does not depend on its rows."""

    accuracy: float
    rows: int
    shares: Floats  # (classes,) mean probabilities
    said: Floats  # (classes,) shares of answers, none of them 0
    modesty: float  # accuracy − mean confidence
    modesty_variance: float  # of one row
    sure_enough: float  # confidence that as many reference rows exceed as are right
    kinds: Kinds
    zero: float  # what the estimate of the reference itself falls short of its accuracy


class Accuracy(NamedTuple):
    """An accuracy and its bounds, 0..1."""

    estimate: float
    lower: float
    upper: float


class Estimate(NamedTuple):
    """Accuracy of a window without labels; beside ours the two known estimators, which take the world to be calibrated."""

    accuracy: Accuracy
    out_of_distribution_share: float
    spoilt_share: float
    unexplained: float  # share of rows at least that no mixture of kinds accounts for
    cbpe: float  # mean confidence (NannyML's CBPE for accuracy)
    atc: float  # share above the reference's threshold (Garg et al. 2022)

    @property
    def unlike_share(self) -> float:
        """Of rows that are not as the reference's."""
        return self.out_of_distribution_share + self.spoilt_share


class Counted(NamedTuple):
    """Mean chances of being right over a window, by what one takes its rows for."""

    likeliest: float
    trusting: float  # every row as right as its confidence says
    doubting: float  # rows that are not as known all wrong
    shares: Floats  # (kinds,)


class LabelShift(NamedTuple):
    """Class shares (classes,) that would explain the window if only shares had moved."""

    before: Floats
    em: Floats
    bbse: Floats


def known(reference: Reference, spoilt: Reference | None, settings: Monitor) -> Known:
    """Accuracy, shares, calibration and kinds of text, on all rows of the reference; raises `ValueError` where it has too few."""
    if len(reference.correct) < 4:
        raise ValueError("the reference has no rows to speak of")
    confidence = reference.probabilities.max(axis=1).astype(np.float64)
    accuracy, classes = float(reference.correct.mean()), len(reference.labels)
    answers = np.bincount(reference.probabilities.argmax(axis=1), minlength=classes) + 1
    facts = Known(
        accuracy=accuracy,
        rows=len(confidence),
        shares=reference.probabilities.mean(axis=0, dtype=np.float64),
        said=answers / answers.sum(),
        modesty=accuracy - float(confidence.mean()),
        modesty_variance=float((reference.correct - confidence).var()),
        sure_enough=float(np.quantile(confidence, 1 - accuracy)),
        kinds=fit_kinds(reference, spoilt, settings),
        zero=0.0,
    )
    held = ~fitted_half(reference, settings)
    found = _counted(facts, reference_rows(reference, held)).likeliest
    return facts._replace(zero=float(confidence[held].mean()) + facts.modesty - found)


def labelled(correct: Flags, settings: Monitor) -> Accuracy | None:
    """Accuracy of labelled answers with Wilson's interval (1927); None for fewer than `min_labels`.

    It is that of all traffic only if what gets a label does not depend on being right.
    """
    n = len(correct)
    if n < settings.min_labels:
        return None
    z, share = _z(settings), float(correct.mean())
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    return Accuracy(share, max(0.0, centre - half), min(1.0, centre + half))


def estimate(reference: Known, window: Rows, settings: Monitor) -> Estimate | None:
    """Accuracy without labels; None for a window that is not full.

    Of a row as known: its confidence under the class shares that EM finds (label shift), corrected by how modest the model is on
    its reference. Of a spoilt one: what became of such answers when the reference's texts were spoilt. Of a foreign one: 0.
    Bounds are what holds if every row is as right as its confidence says, and if none that is not as known is right; beyond them
    the sampling error of window and reference, and below all rows that are like nothing seen before (accuracies of two
    distributions differ by their total variation at most).
    """
    window = window.take(usable(window))
    if len(window.id) < settings.window_rows:
        return None
    found = _counted(reference, window)
    unexplained = _unexplained(reference, window, found.shares)
    likeliest = float(np.clip(found.likeliest + reference.zero, 0.0, 1.0))
    low, high = min(likeliest, found.doubting + min(reference.zero, 0.0)), max(likeliest, found.trusting)
    confidence = window.probabilities.max(axis=1).astype(np.float64)
    return Estimate(
        accuracy=Accuracy(
            estimate=likeliest,
            lower=max(0.0, low - unexplained - _error(low, window, reference, settings)),
            upper=min(1.0, high + _error(high, window, reference, settings)),
        ),
        out_of_distribution_share=float(found.shares[[FOREIGN, FAR]].sum()),
        spoilt_share=float(found.shares[SPOILT]),
        unexplained=unexplained,
        cbpe=float(confidence.mean()),
        atc=float((confidence >= reference.sure_enough).mean()),
    )


def label_shift(reference: Reference, window: Rows) -> LabelShift | None:
    """Shares by EM, and by BBSE beside it; None without rows.

    A reference knows whether an answer was right, not what would have been: BBSE takes the runner-up of a wrong one for it.
    """
    window = window.take(usable(window))
    if not len(window.id) or not len(reference.correct):
        return None
    order = reference.probabilities.argsort(axis=1)
    truth = np.where(reference.correct, order[:, -1], order[:, -min(2, order.shape[1])])
    before = reference.probabilities.mean(axis=0, dtype=np.float64)
    now = window.probabilities.astype(np.float64)
    return LabelShift(
        before=before,
        em=em_shares(now, before, EM_ROUNDS, EM_TOLERANCE),
        bbse=bbse_shares(now, reference.probabilities.astype(np.float64), truth, BBSE_RIDGE),
    )


def harm_log_e(correct: Flags, reference_accuracy: float, tolerated_loss: float, alpha: float) -> float:
    """Natural log of the most that an e-process against "accuracy ≥ reference_accuracy − tolerated_loss" was ever worth.

    P(it ever reaches log(1/α)) ≤ α while that holds, looked at after every label (Ville 1939), if a label's chance of being right
    does not fall below it given those before; so what was proved stays proved when the process falls again. It restarts at every
    label, so that a late fall is found too. Harm ends by proof alone: labels after it bet against "accuracy is below that still",
    and where their e-process reaches log(1/α), both begin anew with the next label. 0 without labels.
    """
    tolerated = float(np.clip(1 - reference_accuracy + tolerated_loss, 1e-3, 0.99))
    suspected = tolerated * SUSPECTED_RATIOS
    suspected, regained = suspected[suspected < 1], 1 - tolerated / SUSPECTED_RATIOS
    if not len(suspected):
        return 0.0
    while True:
        fallen = _log_e(~correct, tolerated, suspected)
        proved = _first(fallen, alpha)
        correct = correct[proved + 1 :]
        ended = _first(_log_e(correct, 1 - tolerated, regained), alpha)
        if ended == len(correct):
            return float(fallen.max(initial=0.0))
        correct = correct[ended + 1 :]


def is_harm(log_e: float, alpha: float) -> bool:
    """Whether harm is proved at `alpha`."""
    return log_e >= float(np.log(1 / alpha))


def _log_e(outcomes: Flags, tolerated: float, suspected: Floats) -> Floats:
    """(T,) after each outcome, against P(true) ≤ tolerated."""
    payoffs = bernoulli_payoffs(tolerated, suspected)[:, outcomes.astype(np.int64)].T
    return log_wealth_of_restarts(payoffs, np.full(len(suspected), 1 / len(suspected)))


def _first(log_e: Floats, alpha: float) -> int:
    """Where 1/α is reached first; the length where it is not."""
    reached = np.flatnonzero(log_e >= np.log(1 / alpha))
    return int(reached[0]) if len(reached) else len(log_e)


def _counted(reference: Known, rows: Rows) -> Counted:
    probabilities = rows.probabilities.astype(np.float64)
    shares = em_shares(probabilities, reference.shares, EM_ROUNDS, EM_TOLERANCE)
    shifted = probabilities * np.divide(shares, reference.shares, out=np.zeros_like(shares), where=reference.shares > 0)
    own = shifted[np.arange(len(shifted)), probabilities.argmax(axis=1)]
    trusted = np.clip(own / np.maximum(shifted.sum(axis=1), 1e-300) + reference.modesty, 0.0, 1.0)
    kind, of_kinds = looks(reference.kinds, rows)
    as_known = float((kind[:, AS_KNOWN] * trusted).mean())
    spoilt = float((kind[:, SPOILT] * right_if_spoilt(reference.kinds, rows)).mean())
    return Counted(as_known + spoilt, float(trusted.mean()), as_known, of_kinds)


def _unexplained(reference: Known, window: Rows, shares: Floats) -> float:
    """Largest distance of distribution functions over the features, less what sampling makes of it."""
    told = ks_distance(*cells_explained(reference.kinds, window, shares)).max()
    return max(0.0, float(told) - KS_NOISE * float(np.sqrt(1 / len(window.id) + 1 / reference.rows)))


def _error(accuracy: float, window: Rows, reference: Known, settings: Monitor) -> float:
    """Half of the interval: the window's rows are a sample, and so is the reference, a smaller one of the classes said now."""
    n, classes = len(window.id), len(reference.said)
    said = np.bincount(window.probabilities.argmax(axis=1), minlength=classes) / n
    calibration = reference.modesty_variance / reference.rows * max(1.0, float((said**2 / reference.said).sum()))
    return _z(settings) * float(np.sqrt(accuracy * (1 - accuracy) / n + calibration))


def _z(settings: Monitor) -> float:
    return NormalDist().inv_cdf(0.5 + settings.confidence / 2)
