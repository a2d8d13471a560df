"""The labels that a text most likely has, for the digit keys, and the known label that a typed word means. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from monitoring.flywheel.queue.round import LabelCandidate
from pipeline.data.records import normalise_label
from pipeline.output.shares import percent

MOST = 9  # digit keys


class Choice(NamedTuple):
    """A label under a digit key, and why it is there."""

    key: int
    label: str
    why: str


def likely_labels(candidate: LabelCandidate, given: Sequence[str], neighbours: Sequence[str]) -> list[Choice]:
    """Return the model's labels first, then the second model's, then those of people in this cluster and of near texts."""
    named = [
        (candidate.label, f"the model, {percent(candidate.confidence)} sure"),
        (candidate.runner_up, "its runner-up"),
        (candidate.second_label, "the second model"),
        *((label, "named in this cluster") for label in given),
        *((label, "a near text") for label in neighbours),
    ]
    return numbered(named)


def common_labels(candidates: Iterable[LabelCandidate], given: Sequence[str]) -> list[Choice]:
    """Return the labels under which the texts of a cluster stand most often: given by people, then by the models."""
    rows = list(candidates)
    models, others = Counter(row.label for row in rows), Counter[str]()
    for row in rows:
        others.update(label for label in (row.second_label, row.runner_up) if label is not None)
    ranked = sorted(models | others, key=lambda label: (-models[label], -others[label], label))
    why = {
        label: f"the model, {models[label]} of {len(rows)}" if models[label] else "second model or runner-up" for label in ranked
    }
    return numbered([*((label, "named in this cluster") for label in given), *why.items()])


def numbered(named: Iterable[tuple[str | None, str]]) -> list[Choice]:
    """Return each label once, with all reasons of a label that comes again, under the digits from 1."""
    reasons: dict[str, list[str]] = {}
    for label, why in named:
        if label is not None and why not in reasons.setdefault(label, []):
            reasons[label].append(why)
    first = list(reasons.items())[:MOST]
    return [Choice(key, label, ", ".join(why)) for key, (label, why) in enumerate(first, 1)]


def known_label(typed: str, known: Iterable[str]) -> str | None:
    """Return the known label that a person has typed, in another spelling too."""
    wanted = normalise_label(typed)
    return next((label for label in sorted(known) if normalise_label(label) == wanted), None)


def near_labels(typed: str, known: Iterable[str]) -> list[str]:
    """Return known labels that look like what was typed."""
    names = sorted(known)
    inside = [name for name in names if typed.casefold().strip() and typed.casefold().strip() in name.casefold()]
    return list(dict.fromkeys([*inside[:5], *get_close_matches(typed, names, n=5)]))[:5]
