"""Findings in the labels of usable rows: near spellings, several labels joined in a text, numbers among words."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from pipeline.check.check_line import CheckLine
from pipeline.check.text_findings import places, warn
from pipeline.data.columns import merged_labels
from pipeline.data.labelled_files import LocatedExample, SpellingVariant, spelling_variants
from pipeline.data.records import normalise_label
from pipeline.params import Data
from pipeline.params.overrides import as_override

MAX_LABELS = 500  # that are compared with each other
LEAST_ALIKE = 0.83  # ratio of Ratcliff and Obershelp
RARER = 4  # times: two frequent labels are two classes, however alike
SEPARATORS = re.compile(r"\s*[,;|/]\s*")
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
FEW = 0.05  # of the rows


class NearLabels(NamedTuple):
    """A rare label, and the frequent one that it may be a misspelling of."""

    rare: str
    usual: str


def check_labels(rows: Sequence[LocatedExample], data: Data) -> Iterator[CheckLine]:
    """Warn about labels that may not be classes of their own, and show the setting that merges them."""
    counts = Counter(str(row.example.label) for row in rows)
    variants = spelling_variants(list(rows))
    joined = _joined(counts)
    near = near_labels({label: count for label, count in counts.items() if label not in joined}, variants)
    for rare, usual in near:
        found = places([row for row in rows if row.example.label == rare], data.source)
        yield CheckLine("warning", f"the label `{rare}`, {found}, may be a misspelling of `{usual}`, {counts[usual]} rows")
    pairs = [*((str(variant.row.example.label), str(variant.usual.example.label)) for variant in variants), *near]
    if merges := [pair for pair in pairs if not re.search("[,=]", "".join(pair))]:
        yield CheckLine("detail", f"to read them as one: -S {_override(merges, counts, data)}")
    remedy = "each is a class of its own so far; give a text the one label that decides"
    several = [row for row in rows if row.example.label in joined]
    example = several[0].example.label if several else ""
    yield from warn(f"several labels in one, such as `{example}`", several, data.source, remedy)
    remedy = "give them the name of their class, or remove them"
    yield from warn("a number as label among words", _numbers(rows, counts), data.source, remedy)
    for label in sorted(set(merged_labels(data).values()) - set(counts)):
        yield CheckLine("warning", f"data.merge_labels: no row has the label `{label}`; check its spelling")


def near_labels(counts: Mapping[str, int], variants: Sequence[SpellingVariant] = ()) -> list[NearLabels]:
    """Return each rare label with the frequent one that is spelt nearly alike; labels that differ in a number are classes."""
    other_spellings = {str(variant.row.example.label) for variant in variants}
    total: Counter[str] = Counter()
    for label, rows in counts.items():
        total[normalise_label(label)] += rows
    near = []
    for rare in counts if len(counts) <= MAX_LABELS else ():
        alike = [
            usual
            for usual in counts
            if usual not in other_spellings
            and RARER * counts[rare] <= total[normalise_label(usual)]
            and rare not in other_spellings
            and _are_alike(normalise_label(rare), normalise_label(usual))
        ]
        if alike:
            near.append(NearLabels(rare, max(alike, key=lambda usual: counts[usual])))
    return near


def _are_alike(first: str, second: str) -> bool:
    if re.findall(r"\d+", first) != re.findall(r"\d+", second) or min(len(first), len(second)) < 5:
        return False
    a, b = (re.sub(r"\s*(?:&|\+)\s*|\s+(?:and|und|et|y|e)\s+", " & ", label) for label in (first, second))
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return matcher.real_quick_ratio() >= LEAST_ALIKE and matcher.ratio() >= LEAST_ALIKE


def _override(merges: Sequence[tuple[str, str]], counts: Mapping[str, int], data: Data) -> str:
    """Return the setting that merges each pair, besides what is merged already; of two spellings the frequent one stays."""
    groups: dict[str, frozenset[str]] = {}
    for first, second in [*merges, *merged_labels(data).items()]:
        group = groups.get(first, frozenset({first})) | groups.get(second, frozenset({second}))
        groups |= dict.fromkeys(group, group)
    usual = {label: max(sorted(group), key=lambda name: counts.get(name, 0)) for label, group in groups.items()}
    pairs = [f"{label}={other}" for label, other in usual.items() if label != other]
    return as_override("data.merge_labels", ", ".join(pairs))


def _joined(counts: Mapping[str, int]) -> set[str]:
    """Return the labels that hold several: parts that are labels too, or that stand in several such labels."""
    parts = {label: SEPARATORS.split(label) for label in counts}
    in_labels = Counter(part for label in counts for part in set(parts[label]))
    return {
        label for label in counts if len(parts[label]) > 1 and all(part in counts or in_labels[part] > 1 for part in parts[label])
    }


def _numbers(rows: Sequence[LocatedExample], counts: Mapping[str, int]) -> list[LocatedExample]:
    """Return the rows with a number as their label where few have one."""
    numbers = {label for label in counts if NUMBER.fullmatch(label)}
    found = [row for row in rows if row.example.label in numbers]
    return found if len(found) <= FEW * len(rows) else []
