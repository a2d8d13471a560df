"""When a person only confirms an answer: the models agree, the champion is confident, and nothing about the text is new. Pure."""

from collections.abc import Iterable, Sequence

from monitoring.flywheel.round import NOVELTY, PROPOSAL, LabelCandidate
from pipeline.params import Flywheel


def is_sure(label: str, second_label: str | None, confidence: float, reasons: Iterable[str], settings: Flywheel) -> bool:
    """Return whether an answer is sure; without a second model's answer it never is."""
    return confidence >= settings.sure and label == second_label and not {NOVELTY, PROPOSAL}.intersection(reasons)


def mix_sure(ordered: Sequence[LabelCandidate], size: int, share: float) -> list[LabelCandidate]:
    """Return the next batch in order, at most `share` of it sure answers, unless nothing else is left.

    A sure answer costs a key press and teaches little, so it takes few of a turn's labels.
    """
    allowed = round(size * share)
    batch: list[LabelCandidate] = []
    postponed: list[LabelCandidate] = []
    for candidate in ordered:
        if len(batch) == size:
            break
        if candidate.is_sure and allowed == 0:
            postponed.append(candidate)
            continue
        allowed -= candidate.is_sure
        batch.append(candidate)
    return batch + postponed[: size - len(batch)]
