"""Make the traffic of the drift bench: three corpora without drift, and the texts that are mixed into them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.window import PredictionRows
from pipeline.data.corrupt import corrupt_texts
from pipeline.params import Monitor, Params
from pipeline.reference_profile import Reference
from tests.bench.drift.embedded import Head, Texts, fit_head, load, with_texts

HEAD_SEED = 3
FOREIGN_LABEL = "foreign"
TYPOS = (0.05, 0.15)  # share of letters
GREETINGS = ("Hello there, I hope you are well.", "Good morning!", "Hi team,", "Sorry to bother you again, quick question:")


class World(NamedTuple):
    """Hold a pool from which references and streams are drawn; the same head answers `others`."""

    name: str
    pool: Texts
    corrupted: Texts | None  # the pool's rows, as the stage `reference` corrupts them
    head: Head
    reference_rows: int
    stream_rows: int
    others: dict[str, Texts]


def make_worlds(data: Path, params: Params, cache: Path) -> dict[str, World]:
    """Embed the corpora, which takes minutes, or read them from the cache. The head never learns a row of its pool."""
    model = params.model
    train, test = (load(data / "banking77" / f"{side}.csv", model, cache) for side in ("train", "test"))
    hotels, styled = (load(data / "nlupp" / f"{name}.csv", model, cache) for name in ("hotels", "banking"))
    desk, traffic = (load(Path("data") / f"{name}.jsonl", model, cache) for name in ("support_desk", "traffic"))
    bank_head, bank_pool = _halves(train, 0.5)
    bank_pool = joined(bank_pool, test)
    desk_head, desk_pool = _halves(desk, 0.4)
    stable = traffic.take(traffic.phase == "stable")
    desk_pool = joined(desk_pool, stable)

    def corrupted(pool: Texts, name: str) -> Texts:
        settings = params.reference
        texts = corrupt_texts(pool.text.tolist(), settings.mistyped, settings.kept_words, settings.seed)
        return with_texts(pool, texts, name, model, cache)

    def disturbed(texts: Texts, name: str) -> dict[str, Texts]:
        kinds = {kind: [change(text, row) for row, text in enumerate(texts.text.tolist())] for kind, change in CHANGES.items()}
        return {kind: with_texts(texts, changed, name, model, cache) for kind, changed in kinds.items()}

    bank_others = {"hotels": wrongly_labelled(hotels), "support desk": wrongly_labelled(desk), **disturbed(test, "test")}
    desk_others = {
        "launch": traffic.take(traffic.phase == "drift"),
        "hotels": wrongly_labelled(hotels),
        **disturbed(stable, "stable"),
    }
    worlds = (
        World("banking77", bank_pool, corrupted(bank_pool, "banking-spoilt"), bank_head, 1500, 1000, bank_others),
        World("nlupp banking", styled, None, bank_head, 700, 1000, {}),
        World("shipped", desk_pool, corrupted(desk_pool, "desk-spoilt"), desk_head, 700, 1000, desk_others),
    )
    return {world.name: world for world in worlds}


def mistyped(text: str, row: int, share: float) -> str:
    """Drop or double letters, unlike the corruption of the reference."""
    rng = np.random.default_rng(row)
    return "".join(c if rng.random() >= share else str(rng.choice(["", c + c])) for c in text) or text


def run_together(text: str, row: int) -> str:
    """Remove a third of the spaces."""
    rng = np.random.default_rng(row)
    return "".join("" if c == " " and rng.random() < 1 / 3 else c for c in text)


def greeted(text: str, row: int) -> str:
    """Put a greeting before the text."""
    return f"{GREETINGS[row % len(GREETINGS)]} {text}"


CHANGES: dict[str, Callable[[str, int], str]] = {
    **{f"typos in {share:.0%} of letters": partial(mistyped, share=share) for share in TYPOS},
    "words run together": run_together,
    "a greeting first": greeted,
}


def draw(world: World, rng: np.random.Generator) -> tuple[Texts, Texts]:
    """Return reference and stream: disjoint, in random order; the stream is the rest of the pool."""
    reference, rest = draw_rows(world, rng)
    return world.pool.take(reference), world.pool.take(rest)


def draw_rows(world: World, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pool's rows for a reference, and all others."""
    order = rng.permutation(len(world.pool.text))
    return order[: world.reference_rows], order[world.reference_rows :]


def to_reference(texts: Texts, head: Head) -> Reference:
    """Return a reference with all rows in the calibration half; the stream replaces the A/A half in these runs."""
    probabilities = head(texts.embedding)
    return Reference(
        ids=np.array([f"r{row}" for row in range(len(texts.text))]),
        labels=head.labels,
        probabilities=probabilities,
        sketch=texts.sketch,
        pieces=texts.pieces,
        pieces_per_word=texts.pieces_per_word,
        correct=head.labels[probabilities.argmax(axis=1)] == texts.label,
        calibrate=np.ones(len(texts.text), dtype=np.bool_),
    )


def to_rows(texts: Texts, head: Head, name: str) -> PredictionRows:
    """Return the head's predictions; `name` makes their ids unique, and with them how ties are broken."""
    count = len(texts.text)
    return PredictionRows(
        time=np.arange(count, dtype=np.float64),
        id=np.array([f"{name}-{row}" for row in range(count)], dtype=np.str_),
        unit=np.zeros(count, dtype=np.str_),
        text=texts.text,
        pieces=texts.pieces,
        pieces_per_word=texts.pieces_per_word,
        probabilities=head(texts.embedding),
        sketch=texts.sketch,
    )


def mixed(texts: Texts, foreign: Texts, share: float, count: int, rng: np.random.Generator) -> Texts:
    """Return `count` rows in random order, exactly this share of them (rounded) foreign."""
    foreign_count = round(share * count)
    known = texts.take(rng.choice(len(texts.text), count - foreign_count, replace=False))
    unknown = foreign.take(rng.choice(len(foreign.text), foreign_count, replace=foreign_count > len(foreign.text)))
    return joined(known, unknown).take(rng.permutation(count))


def wrongly_labelled(texts: Texts) -> Texts:
    """Return the texts with a label that makes every answer wrong."""
    return texts._replace(label=np.full(len(texts.text), FOREIGN_LABEL))


def joined(first: Texts, second: Texts) -> Texts:
    """Concatenate two sets of texts."""
    return Texts._make(np.concatenate([head, tail]) for head, tail in zip(first, second, strict=True))


def monitor(shipped: Monitor, **changed: float) -> Monitor:
    """Return the shipped section with the settings that a run changes."""
    return Monitor.model_validate(shipped.model_dump() | changed)


def is_right(texts: Texts, rows: PredictionRows, head: Head) -> NDArray[np.bool_]:
    """Return which answers are right."""
    return np.asarray(head.labels[rows.probabilities.argmax(axis=1)] == texts.label)


def _halves(texts: Texts, share: float) -> tuple[Head, Texts]:
    """Return a head learnt on a share of each class's rows, and the remaining rows."""
    rng = np.random.default_rng(HEAD_SEED)
    taken = np.zeros(len(texts.text), dtype=np.bool_)
    for label in np.unique(texts.label):
        rows = np.flatnonzero(texts.label == label)
        taken[rng.permutation(rows)[: max(2, round(share * len(rows)))]] = True
    return fit_head(texts.take(taken), HEAD_SEED), texts.take(~taken)
