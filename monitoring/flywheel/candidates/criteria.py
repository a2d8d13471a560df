"""What makes a text a candidate: the models disagree, the margin is low, the text is novel, or somebody proposed a new label.

So does a class with few labels. A few answers that are sure are candidates as well: a person confirms them with a key.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.detectors.novelty import Novelty, fit_novelty
from monitoring.flywheel.queue.round import DISAGREEMENT, FEW_LABELS, MARGIN, NOVELTY, PROPOSAL, REASONS_OF_CANDIDATES, SURE
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.reference_profile import Reference, load_reference

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]


class NoveltyRule(NamedTuple):
    """A text is novel above the threshold; probabilities are in the order of `labels.txt`."""

    score: Novelty
    threshold: float


class Criteria(NamedTuple):
    """Conditions for answers of one version."""

    version: int
    classes: int
    sketch_size: int
    low_margin: float
    novelty: NoveltyRule | None  # None: the reference has too few rows
    second_labels: Mapping[str, str]  # of the second model, by prediction id
    proposed: frozenset[str]  # content ids of texts with a label that the version lacks
    left_out: frozenset[str]  # content ids of texts that need no label or must get none
    few_labels: frozenset[str]  # classes; every text that a model puts into one is a candidate
    sure: float  # confidence from which an answer on which the models agree is sure
    at_most_sure: int  # texts that are candidates only because a person can confirm them


class ReferenceFacts(NamedTuple):
    """What the version's reference says about its answers."""

    labels: tuple[str, ...]
    sketch_size: int
    novelty: NoveltyRule | None


def read_reference(folder: Path, params: Params) -> ReferenceFacts:
    """Fit novelty on the calibrate half of the reference, and its threshold on the other half."""
    path = folder / "reference.npz"
    try:
        reference = load_reference(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            str(path), f"it cannot be read: {error}", "publish the version again: .venv/bin/evergreen publish"
        ) from None
    rule = fit_novelty_rule(reference, params.monitor.shrinkage, params.flywheel.novel_share)
    return ReferenceFacts(tuple(reference.labels.tolist()), reference.sketch.shape[1], rule)


def fit_novelty_rule(reference: Reference, shrinkage: float, novel_share: float) -> NoveltyRule | None:
    """Return the rule by which `novel_share` of texts like the reference are novel; None with too few rows.

    Entropy does not depend on the order of probabilities, so that of the reference serves for the log's too.
    """
    fitted, judged = reference.calibrate, ~reference.calibrate
    if fitted.sum() < 2 or not judged.any():
        return None
    score = fit_novelty(reference.sketch[fitted], reference.probabilities[fitted], shrinkage)
    scores = score(reference.sketch[judged], reference.probabilities[judged])
    return NoveltyRule(score, float(np.quantile(scores, 1 - novel_share)))


def reasons_of(
    *, is_differing: bool, is_low: bool, is_novel: bool, is_proposed: bool, is_few: bool, is_sure: bool
) -> tuple[str, ...]:
    """Return the reasons that hold, in the order of their names in a round."""
    held = {
        DISAGREEMENT: is_differing,
        MARGIN: is_low,
        NOVELTY: is_novel,
        PROPOSAL: is_proposed,
        FEW_LABELS: is_few,
        SURE: is_sure,
    }
    return tuple(name for name in REASONS_OF_CANDIDATES if held[name])
