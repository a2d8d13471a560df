"""The labels of a version, and what changes for callers when another version answers."""

from pathlib import Path
from typing import NamedTuple

from pipeline.output.plain_text import join_names

MAX_LABELS = 20  # named; the rest is counted


class LabelChange(NamedTuple):
    """The labels that callers no longer get, and those that they do not know."""

    gone: tuple[str, ...]
    new: tuple[str, ...]

    def describe(self) -> list[str]:
        """Return a sentence for each kind of change."""
        sentences = []
        if self.gone:
            names = join_names(self.gone, MAX_LABELS)
            sentences.append(f"callers never get these {len(self.gone)} labels again: {names}")
        if self.new:
            names = join_names(self.new, MAX_LABELS)
            sentences.append(f"callers get {len(self.new)} labels that no answer had before: {names}")
        return sentences


def labels_of(folder: Path | None) -> frozenset[str]:
    """Return the labels of a package or version; empty without a folder."""
    path = folder / "labels.txt" if folder else None
    return frozenset(path.read_text(encoding="utf-8").splitlines()) if path and path.is_file() else frozenset()


def label_change(before: frozenset[str], after: frozenset[str]) -> LabelChange:
    """Compare the labels of the version that answers with those of the one that will."""
    return LabelChange(tuple(sorted(before - after)), tuple(sorted(after - before)))
