"""A small invented world for tests of the monitor: texts are points of four classes, the model is right about nine in ten."""

import numpy as np

from monitoring.drift.window import Rows
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

CLASSES, WIDTH = 4, 8
LABELS = np.array(["address", "battery", "cancel", "delivery"])
CENTRES = np.eye(CLASSES, WIDTH) * 2.6
SPOILT_PIECES = 1.6  # times as many pieces a word
WORDS = ("parcel", "refund", "invoice", "bell")


class World:
    """Draws references and rows, seeded; `foreign` rows lie where no class is."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def points(self, count: int, shares: np.ndarray, foreign: float) -> tuple[np.ndarray, np.ndarray]:
        truth = self.rng.choice(CLASSES, count, p=shares)
        strange = self.rng.random(count) < foreign
        centre = np.where(strange[:, None], np.full(WIDTH, 3.0), CENTRES[truth])
        return centre + self.rng.normal(size=(count, WIDTH)), np.where(strange, -1, truth)

    def reference(self, count: int) -> Reference:
        return self.with_spoilt(count)[0]

    def with_spoilt(self, count: int) -> tuple[Reference, Reference]:
        """A reference, and the same rows with their texts spoilt."""
        x, truth = self.points(count, np.full(CLASSES, 1 / CLASSES), 0.0)
        return self._as_reference(x, truth, 1.0), self._as_reference(self.spoil(x), truth, SPOILT_PIECES)

    def spoil(self, x: np.ndarray) -> np.ndarray:
        """Half of what a text says is lost, more or less."""
        return x * self.rng.uniform(0.2, 0.8, (len(x), 1)) + self.rng.normal(size=x.shape) * 0.7

    def _as_reference(self, x: np.ndarray, truth: np.ndarray, pieces: float) -> Reference:
        probabilities, count = posterior(x), len(x)
        return Reference(
            ids=np.array([f"r{i}" for i in range(count)]),
            labels=LABELS,
            probabilities=probabilities,
            sketch=x.astype(np.float16),
            pieces=self.rng.poisson(9 * pieces, count).astype(np.int32),
            pieces_per_word=self.rng.gamma(9, 0.15 * pieces, count).astype(np.float32),
            correct=probabilities.argmax(axis=1) == truth,
            calibrate=np.arange(count) % 2 == 0,
        )

    def rows(self, count: int, *, foreign: float = 0.0, shares: np.ndarray | None = None, longer: float = 1.0) -> Rows:
        return self.labelled_rows(count, foreign=foreign, shares=shares, longer=longer)[0]

    def labelled_rows(
        self, count: int, *, foreign: float = 0.0, spoilt: float = 0.0, shares: np.ndarray | None = None, longer: float = 1.0
    ) -> tuple[Rows, np.ndarray]:
        """Rows, and whether each answer is right."""
        x, truth = self.points(count, np.full(CLASSES, 1 / CLASSES) if shares is None else shares, foreign)
        per_word = np.ones(count)
        if spoilt:
            bad = self.rng.random(count) < spoilt
            x, per_word = np.where(bad[:, None], self.spoil(x), x), np.where(bad, SPOILT_PIECES, 1.0)
        probabilities, self.count = posterior(x), self.count + count
        number = range(self.count - count, self.count)
        texts = [f"{WORDS[t]} number {i}" if t >= 0 else f"scooter battery {i}" for t, i in zip(truth, number, strict=True)]
        made = Rows(
            time=np.array(number, dtype=np.float64),
            id=np.array([f"p{i}" for i in number], dtype=np.str_),
            unit=np.array([f"customer-{i}" for i in number], dtype=np.str_),
            text=np.array(texts, dtype=np.str_),
            pieces=self.rng.poisson(9 * longer * per_word, count).astype(np.int32),
            pieces_per_word=self.rng.gamma(9, 0.15 * per_word, count).astype(np.float32),
            probabilities=probabilities,
            sketch=x.astype(np.float16),
        )
        return made, probabilities.argmax(axis=1) == truth


def posterior(x: np.ndarray) -> np.ndarray:
    """The exact posterior under even shares: a calibrated model."""
    logits = x @ CENTRES.T - (CENTRES**2).sum(axis=1) / 2
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


def settings(shipped: Monitor, **changed: float) -> Monitor:
    """The shipped section with fewer draws, and what a test changes."""
    return Monitor.model_validate({**shipped.model_dump(), "null_draws": 1000, "check_draws": 200, **changed})
