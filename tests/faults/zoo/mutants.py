"""The animals of the zoo: bad models that have to be caught, and good ones that have to be released.

Those with a live fault are made to pass: offline nothing is wrong with them, and their faults begin after the load check, spare
its texts, or are of a kind that it cannot see.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.release.live.load_check import LONG_CHARACTERS
from tests.faults.zoo import changed_package as make
from tests.faults.zoo.changed_package import Head
from tests.faults.zoo.habitat import SEED, Habitat
from tests.faults.zoo.stream import NEW_WORD

SLOWER = 4  # times in the model: about three times the latency at the gateway
CHECKED_CALLS, CHECKED_TEXTS = 60, 200  # of each of a model's two processes; the load check has fewer
WORN_AFTER = 500  # texts of a process: beyond the shadow
SMALL_LOSS, LARGE_LOSS = 2.0, 5.0  # points
AS_GOOD = 0.1  # of the scale of the logits: the noise of another seed
Build = Callable[[Habitat, Path], Path]  # from a folder of its own → the package


class Mutant(NamedTuple):
    """One animal. `alter` changes a published version's folder, after it was signed."""

    name: str
    what: str
    build: Build
    is_good: bool = False
    alter: Callable[[Path], None] | None = None
    lists: int = 6  # of its customers, one in so many sends 8 texts together
    replayed: Callable[[Habitat], Head] | None = None  # its head, where one release alone may be luck


def _replayed(name: str, what: str, choose: Callable[[Habitat], Head], *, is_good: bool = False) -> Mutant:
    return Mutant(name, what, _with_head(choose), is_good, replayed=choose)


def _with_head(choose: Callable[[Habitat], Head]) -> Build:
    def build(habitat: Habitat, folder: Path) -> Path:
        package = make.begin(habitat.original, folder)
        make.change_head(package, choose(habitat))
        return make.finish(package)

    return build


def _live(fault: str, **arguments: object) -> Build:
    """Give arguments of the fault; a callable is asked with the habitat."""

    def build(habitat: Habitat, folder: Path) -> Path:
        package = make.begin(habitat.original, folder)
        given = {name: value(habitat) if callable(value) else value for name, value in arguments.items()}
        make.add_live_fault(package, fault, **given)
        return make.finish(package)

    return build


def _noise(points: float, seed: int = SEED) -> Callable[[Habitat], Head]:
    """Return the head whose noise loses so many points."""

    def choose(habitat: Habitat) -> Head:
        rng = np.random.default_rng(seed)
        direction = rng.normal(scale=40 * float(habitat.logits.std()), size=habitat.unchanged.noise.shape).astype(np.float32)
        return habitat.worse_by(points, lambda strength: habitat.unchanged._replace(noise=np.float32(strength) * direction))

    return choose


def _lost_class(points: float) -> Callable[[Habitat], Head]:
    """Return the head that answers with the commonest class less often."""

    def choose(habitat: Habitat) -> Head:
        bias = np.zeros(habitat.logits.shape[1], dtype=np.float32)
        bias[np.bincount(habitat.truth).argmax()] = -100 * float(np.abs(habitat.logits).max())
        lost = habitat.unchanged._replace(bias=bias)
        if points >= 100:
            return lost
        return habitat.worse_by(points, lambda strength: lost._replace(bias=np.float32(strength**4) * bias))

    return choose


def _unchanged(habitat: Habitat) -> Head:
    return habitat.unchanged


def _constant(habitat: Habitat) -> Head:
    bias = np.zeros(habitat.logits.shape[1], dtype=np.float32)
    bias[0] = 100 * float(np.abs(habitat.logits).max())
    return habitat.unchanged._replace(bias=bias)


def _not_a_number(habitat: Habitat) -> Head:
    return habitat.unchanged._replace(bias=np.full(habitat.logits.shape[1], np.nan, dtype=np.float32))


def _nan_weights(habitat: Habitat, folder: Path) -> Path:
    """Lose every number after the golden answers were written, which hold numbers alone."""
    package = make.begin(habitat.original, folder)
    make.change_head(package, _not_a_number(habitat))
    return make.finish(package, is_evaluated=False, is_profiled=False, has_golden=False)


def _as_good(habitat: Habitat) -> Head:
    """Return a head that answers some texts otherwise, and as many rightly: another seed of the same recipe."""
    rng, before = np.random.default_rng(SEED), habitat.accuracy(habitat.unchanged)
    for _ in range(1000):
        noise = rng.normal(scale=AS_GOOD * float(habitat.logits.std()), size=habitat.unchanged.noise.shape).astype(np.float32)
        head = habitat.unchanged._replace(noise=noise)
        if 0 <= habitat.accuracy(head) - before < 0.004:
            return head
    raise ValueError("no head found that is as good as the original")


def _swapped(labels: list[str]) -> list[str]:
    return [labels[1], labels[0], *labels[2:]]


def _relabelled(order: Callable[[list[str]], list[str]]) -> Build:
    def build(habitat: Habitat, folder: Path) -> Path:
        package = make.begin(habitat.original, folder)
        make.change_card(package, lambda card: card.update(labels=order(card["labels"])))
        return make.finish(package, is_evaluated=False)

    return build


def _wrong_tokenizer(habitat: Habitat, folder: Path) -> Path:
    package = make.begin(habitat.original, folder)
    make.spoil_vocabulary(package, np.random.default_rng(SEED))
    return make.finish(package, is_evaluated=False)


def _uncalibrated(habitat: Habitat, folder: Path) -> Path:
    package = make.begin(habitat.original, folder)
    make.change_card(package, lambda card: card.update(temperature=card["temperature"] / 8))
    return make.finish(package)


def _short_window(habitat: Habitat, folder: Path) -> Path:
    """Read the first pieces of a text only, evaluated as such."""
    package = make.begin(habitat.original, folder)
    make.change_card(package, lambda card: card.update(max_pieces=10))
    return make.finish(package)


def _rare_not_a_number(habitat: Habitat, folder: Path) -> Path:
    package = make.begin(habitat.original, folder)
    make.spoil_unused_weights(package, habitat.new_pieces)
    return make.finish(package)


def _stale_golden(habitat: Habitat, folder: Path) -> Path:
    package = make.begin(habitat.original, folder)
    make.change_head(package, _noise(SMALL_LOSS)(habitat))
    return make.finish(package, has_golden=False)


def _stale_reference(habitat: Habitat, folder: Path) -> Path:
    """Keep the reference of a much surer model."""
    package = make.begin(habitat.original, folder)
    make.change_card(package, lambda card: card.update(temperature=card["temperature"] / 8))
    make.finish(package)
    make.change_card(package, lambda card: card.update(temperature=card["temperature"] * 8))
    return make.finish(package, is_profiled=False)


def _alter_bytes(folder: Path) -> None:
    """Change one byte of a graph."""
    path = sorted((folder / "1").glob("*.onnx"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _unread_lengths(habitat: Habitat) -> tuple[int, int]:
    """Return the range of lengths, in characters, that no text of the load check has and most live texts fall into."""
    bounds = sorted({*(len(text) for text in habitat.golden), *LONG_CHARACTERS})
    lengths = np.array([len(each.text) for each in habitat.texts])
    gaps = [(low + 1, high - 1) for low, high in pairwise(bounds) if high - low > 1]
    return max(gaps, key=lambda gap: int(((lengths >= gap[0]) & (lengths <= gap[1])).sum()))


def zoo() -> list[Mutant]:
    """Return every animal, those first that the gate can see."""
    return [
        _replayed("identical", "the champion and one more comment", _unchanged, is_good=True),
        _replayed("another_seed", "as good, with other answers to some texts", _as_good, is_good=True),
        Mutant("nan_weights", "no weight is a number", _nan_weights),
        Mutant("nan_rare_weights", "weights of a new word's pieces are no numbers", _rare_not_a_number),
        Mutant("constant_class", "answers with one class always", _with_head(_constant)),
        Mutant("class_lost", "never answers with the commonest class", _with_head(_lost_class(100))),
        Mutant("swapped_labels", "two labels swapped on export", _relabelled(_swapped)),
        Mutant("label_order", "labels in another order", _relabelled(lambda labels: labels[::-1])),
        Mutant("wrong_tokenizer", "the tokenizer of another vocabulary", _wrong_tokenizer),
        Mutant("uncalibrated", "an eighth of the right temperature", _uncalibrated),
        Mutant("short_window", "reads 10 pieces of a text", _short_window),
        Mutant("stale_reference", "the reference of an earlier model", _stale_reference),
        _replayed("worse_5_noise", "5 points worse, by noise", _noise(LARGE_LOSS)),
        _replayed("worse_5_class", "5 points worse, in one class", _lost_class(LARGE_LOSS)),
        _replayed("worse_2_noise", "2 points worse, by noise", _noise(SMALL_LOSS)),
        _replayed("worse_2_class", "2 points worse, in one class", _lost_class(SMALL_LOSS)),
        Mutant("stale_golden", "the golden answers of an earlier model", _stale_golden),
        Mutant("altered_bytes", "a byte changed after it was signed", _with_head(_unchanged), alter=_alter_bytes),
        *_live_mutants(),
    ]


def _live_mutants() -> list[Mutant]:
    """Return the animals whose faults show while they run."""
    lengths = {"shortest": lambda habitat: _unread_lengths(habitat)[0], "longest": lambda habitat: _unread_lengths(habitat)[1]}
    labels = {"labels": lambda habitat: habitat.labels}
    cut = {"longer_than": 120, "kept": 40, "spared": lambda habitat: habitat.golden}
    later = {"every": 15, "after": CHECKED_TEXTS}
    return [
        Mutant("alone_only", "right for one text at a time only", _live("alone_only")),
        Mutant("crash_long", "fails for texts of more than 600 characters", _live("fail_at_length", shortest=601, longest=10**6)),
        Mutant("crash_at_length", "fails for lengths that no check tries", _live("fail_at_length", **lengths)),
        Mutant("crash_at_word", "fails where a new product is named", _live("fail_at_word", word=NEW_WORD)),
        Mutant("crash_sometimes", "fails at 1 call in 12", _live("fail_sometimes", every=12, after=CHECKED_CALLS)),
        Mutant("truncates", "reads 40 characters of texts of more than 120", _live("truncate", **cut)),
        Mutant("wrong_live", "swaps labels where a new product is named", _live("swap_labels", word=NEW_WORD, **labels)),
        Mutant("empty_answers", "an empty label for 1 text in 15", _live("answer_nothing", **later)),
        Mutant("nan_answers", "a confidence that is no number for 1 text in 15", _live("lose_numbers", **later)),
        Mutant("slow", "three times the latency", _live("slow", times=SLOWER, from_texts=1)),
        Mutant("slow_at_8", "slow with 8 texts in a batch", _live("slow", times=SLOWER, from_texts=8), lists=2),
        Mutant("leak", "keeps half a MiB with every text", _live("leak", mib=0.5)),
        Mutant("wears_out", "one class for every text after some hundred", _live("wear_out", after=WORN_AFTER, **labels)),
    ]
