"""When a person only confirms an answer: the models agree, the champion is confident, and nothing about the text is new. Pure."""

from collections.abc import Iterable, Sequence

from monitoring.flywheel.queue.round import NOVELTY, PROPOSAL, LabelCandidate
from pipeline.params import Flywheel


def is_sure(label: str, second_label: str | None, confidence: float, reasons: Iterable[str], settings: Flywheel) -> bool:
    """Return whether an answer is sure; without a second model's answer it never is."""
    return confidence >= settings.sure and label == second_label and not {NOVELTY, PROPOSAL}.intersection(reasons)


def mix_sure(ordered: Sequence[LabelCandidate], size: int, share: float) -> list[LabelCandidate]:
    """Return the next batch: `share` of it the first sure answers, wherever they stand, and the first of the others.

    A sure answer costs a key press and teaches little, so it stands at the end of the order. Where one kind runs out, the other
    fills the batch.
    """
    sure = [candidate for candidate in ordered if candidate.is_sure]
    others = [candidate for candidate in ordered if not candidate.is_sure]
    confirmed = max(min(round(size * share), len(sure)), size - len(others))
    return [*others[: size - confirmed], *sure[:confirmed]]
