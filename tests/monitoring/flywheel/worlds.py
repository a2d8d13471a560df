"""A home with a published version and a log of answers: texts of known and unknown intents, as sketches around centres."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.params import Params
from pipeline.reference_profile import Reference
from serving.prediction import Prediction
from tests.monitoring.homes import NOON, Gateway, publish

WIDTH, CLASSES = 64, 8
LABELS = np.array([f"class_{i}" for i in range(CLASSES)])
SPREAD = 0.35  # of sketches around the centre of their intent, over all axes together
SEGMENT_ROWS = 5000


class Asked(NamedTuple):
    """Texts that customers asked; the intents from `CLASSES` on are unknown to the model."""

    texts: list[str]
    intents: NDArray[np.int64]
    sketches: NDArray[np.float16]
    probabilities: NDArray[np.float32]  # in the order of `LABELS`


class Customers:
    """Draws texts of intents from a seed; each intent has a centre and words of its own."""

    def __init__(self, seed: int, intents: int = CLASSES + 4) -> None:
        self.rng = np.random.default_rng(seed)
        centres = self.rng.normal(size=(intents, WIDTH))
        self.centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        self._count = 0

    def ask(self, count: int, intents: NDArray[np.int64] | None = None) -> Asked:
        """Return texts of the given intents, by default of all in equal shares."""
        drawn = self.rng.integers(0, len(self.centres), count) if intents is None else intents
        x = self.centres[drawn] + self.rng.normal(size=(count, WIDTH)) * SPREAD / np.sqrt(WIDTH)
        logits = 12 * x @ self.centres[:CLASSES].T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        fillers = self.rng.integers(0, 400, (count, 4))
        texts = [
            f"topic{intent} thing{intent} {' '.join(f'w{word}' for word in words)} n{self._count + row}"
            for row, (intent, words) in enumerate(zip(drawn.tolist(), fillers.tolist(), strict=True))
        ]
        self._count += count
        return Asked(texts, drawn, x.astype(np.float16), (p / p.sum(axis=1, keepdims=True)).astype(np.float32))

    def reference(self, count: int) -> Reference:
        """Return rows of the known intents alone."""
        asked = self.ask(count, self.rng.integers(0, CLASSES, count))
        return Reference(
            ids=np.array([f"r{i}" for i in range(count)]),
            labels=LABELS,
            probabilities=asked.probabilities,
            sketch=asked.sketches,
            pieces=np.full(count, 9, dtype=np.int32),
            pieces_per_word=np.full(count, 1.3, dtype=np.float32),
            correct=asked.probabilities.argmax(axis=1) == asked.intents,
            calibrate=np.arange(count) % 2 == 0,
        )


def logged(asked: Asked, *, at: float, version: int = 1, every_s: float = 0.001) -> list[Prediction]:
    """Return the answers as a gateway logs them; `publish` writes labels.txt in reverse order."""
    order = np.argsort(LABELS)[::-1]
    ranked = asked.probabilities.argsort(axis=1)
    rows = []
    for i, text in enumerate(asked.texts):
        p, best, second = asked.probabilities[i], ranked[i, -1], ranked[i, -2]
        moment = at + i * every_s
        id = f"{int(moment):08x}{abs(hash((text, at))) & (2**64 - 1):016x}-{version}-{i % 99999}-{i & (2**64 - 1):016x}"
        rows.append(
            Prediction(moment, "r", id, None, text, None, 9, 1.3, version, "champion", str(LABELS[best]), float(p[best]),
                str(LABELS[second]), asked.sketches[i].tobytes(), p[order].astype(np.float16).tobytes(), 3.0, False)
        )  # fmt: skip
    return rows


def write_log(home: Path, rows: list[Prediction], session: str = "a", *, text: str = "keep") -> None:
    """Write the rows as segments of one session."""
    gateway = Gateway(home, session)
    for begin in range(0, len(rows), SEGMENT_ROWS):
        gateway.write(rows[begin : begin + SEGMENT_ROWS], text=text)


def flywheel_home(folder: Path, customers: Customers) -> Path:
    """Return a home whose champion is version 1."""
    home = folder / "live"
    home.mkdir(parents=True)
    publish(home, 1, customers.reference(400))
    return home


def working_tree(folder: Path, params: Params, rows: dict[str, str]) -> Path:
    """Return a folder with this corpus, text → label, and an empty test file."""
    root = folder / "clone"
    for file in (params.data.source, params.data.test):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
    lines = [f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows.items()]
    (root / params.data.source).write_text("".join(lines))
    (root / params.data.test).write_text("text,label\n")
    return root


NOW = NOON + 3600
