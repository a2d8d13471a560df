"""A small simulated world for tests of the monitor: texts are points of four classes, nine in ten are answered right."""

import numpy as np

from monitoring.drift.window import PredictionRows
from pipeline.params import Monitor
from pipeline.reference_profile import Reference

CLASSES, WIDTH = 4, 8
LABELS = np.array(["address", "battery", "cancel", "delivery"])
CENTRES = np.eye(CLASSES, WIDTH) * 2.6
CORRUPTED_PIECES = 1.6  # times as many pieces per word
WORDS = ("parcel", "refund", "invoice", "bell")


class World:
    """Draws references and rows from a seed; out-of-distribution rows lie where no class is."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def points(self, count: int, shares: np.ndarray, out_of_distribution: float) -> tuple[np.ndarray, np.ndarray]:
        """Return points (N, WIDTH) and their classes, −1 for out-of-distribution ones."""
        truth = self.rng.choice(CLASSES, count, p=shares)
        is_outside = self.rng.random(count) < out_of_distribution
        centre = np.where(is_outside[:, None], np.full(WIDTH, 3.0), CENTRES[truth])
        return centre + self.rng.normal(size=(count, WIDTH)), np.where(is_outside, -1, truth)

    def reference(self, count: int) -> Reference:
        return self.reference_and_corrupted(count)[0]

    def reference_and_corrupted(self, count: int) -> tuple[Reference, Reference]:
        """Return a reference, and the same rows with their texts corrupted."""
        x, truth = self.points(count, np.full(CLASSES, 1 / CLASSES), 0.0)
        return self._as_reference(x, truth, 1.0), self._as_reference(self.corrupt(x), truth, CORRUPTED_PIECES)

    def corrupt(self, x: np.ndarray) -> np.ndarray:
        """Lose about half of a text's information."""
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

    def rows(
        self, count: int, *, out_of_distribution: float = 0.0, shares: np.ndarray | None = None, longer: float = 1.0
    ) -> PredictionRows:
        return self.labelled_rows(count, out_of_distribution=out_of_distribution, shares=shares, longer=longer)[0]

    def labelled_rows(
        self,
        count: int,
        *,
        out_of_distribution: float = 0.0,
        corrupted: float = 0.0,
        shares: np.ndarray | None = None,
        longer: float = 1.0,
    ) -> tuple[PredictionRows, np.ndarray]:
        """Return rows, and whether each prediction is right."""
        x, truth = self.points(count, np.full(CLASSES, 1 / CLASSES) if shares is None else shares, out_of_distribution)
        per_word = np.ones(count)
        if corrupted:
            is_corrupted = self.rng.random(count) < corrupted
            x = np.where(is_corrupted[:, None], self.corrupt(x), x)
            per_word = np.where(is_corrupted, CORRUPTED_PIECES, 1.0)
        probabilities, self.count = posterior(x), self.count + count
        numbers = range(self.count - count, self.count)
        texts = [f"{WORDS[t]} number {i}" if t >= 0 else f"scooter battery {i}" for t, i in zip(truth, numbers, strict=True)]
        rows = PredictionRows(
            time=np.array(numbers, dtype=np.float64),
            id=np.array([f"p{i}" for i in numbers], dtype=np.str_),
            unit=np.array([f"customer-{i}" for i in numbers], dtype=np.str_),
            text=np.array(texts, dtype=np.str_),
            pieces=self.rng.poisson(9 * longer * per_word, count).astype(np.int32),
            pieces_per_word=self.rng.gamma(9, 0.15 * per_word, count).astype(np.float32),
            probabilities=probabilities,
            sketch=x.astype(np.float16),
        )
        return rows, probabilities.argmax(axis=1) == truth


def posterior(x: np.ndarray) -> np.ndarray:
    """Return the exact posterior under even shares: a calibrated model."""
    logits = x @ CENTRES.T - (CENTRES**2).sum(axis=1) / 2
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def settings(shipped: Monitor, **changed: float) -> Monitor:
    """Return the shipped section with fewer draws and a test's changes."""
    return Monitor.model_validate({**shipped.model_dump(), "null_draws": 1000, "check_draws": 200, **changed})
