"""Opens the sessions among which the stage chooses, and asks them for the held-out texts. Decides nothing."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from pipeline.params import Package, Session
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.outputs import ModelOutputs
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from pipeline.runtime.sessions import SESSIONS, Floats, open_session
from pipeline.runtime.text import clean
from pipeline.session.quantise import quantise
from pipeline.session.timing import BASELINE

INT8, INT8_SOURCE = "packed-openvino-int8", "packed-onnxruntime-fp32"  # the int8 session quantises the source's graph
COMPILING = "openvino"  # the engine that compiles for each new length of its inputs
log = structlog.get_logger()


class Sessions:
    """Opens candidates on an exported model. The weights of int8 are only rounded until `fit` is called: it is as fast."""

    def __init__(self, exported: Path, train_texts: list[str], out: Path, settings: Session, package: Package) -> None:
        self.exported, self.train_texts, self.out = exported, train_texts, out
        self.settings, self.package = settings, package

    def open(self, name: str) -> Classifier:
        """Return a classifier of its own for one thread; raises whatever the engine raises."""
        folder = self.out if name == INT8 else self.exported
        if name == INT8 and not (self.out / SESSIONS[INT8].graph).is_file():
            self._quantise(None)
        session = open_session(folder, name, self.settings.threads, token_budget=self.package.token_budget)
        return Classifier(self.exported, session=session)

    def try_open(self, name: str) -> Classifier | str:
        """Return the classifier, or the reason why this candidate cannot run here."""
        try:
            classifier = self.open(name)
            answers = len(classifier.predict(["warm up"]).labels)
            if answers != 1:
                raise RuntimeError(f"it gives {answers} answers to one text")
        except Exception as error:  # engines raise anything; a candidate that cannot run must not stop the others
            if name == BASELINE:
                raise
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return classifier

    def fit(self) -> None:
        """Fit the int8 weights to training texts. When that fails, the weights stay rounded, and the gate judges those.

        Fitting takes longer than timing a session.
        """
        longest = json.loads((self.exported / "model.json").read_text(encoding="utf-8"))["max_pieces"]
        texts = [clean(text) for text in self.train_texts[: self.settings.int8_texts]]
        try:
            self._quantise(to_pieces(load_tokenizer(self.exported, longest), texts))
        except Exception as error:  # as above
            log.warning("int8_not_fitted", error=f"{type(error).__name__}: {error}"[:200])

    def _quantise(self, pieces: Sequence[list[int]] | None) -> None:
        quantise(self.exported / SESSIONS[INT8_SOURCE].graph, self.out / SESSIONS[INT8].graph, pieces)


def batch_calls(classifier: Classifier, texts: Sequence[str], batch: int) -> list[Callable[[], ModelOutputs]]:
    """Return calls that classify the texts in order, each a batch of the size Triton forms within its latency limit."""
    return [partial(classifier.predict, texts[start : start + batch]) for start in range(0, len(texts), batch)]


def alone_and_batched(pair: tuple[Classifier, Classifier], texts: Sequence[str], batch: int) -> tuple[Floats, Floats]:
    """Return the probabilities of each text alone, and of all in batches as Triton forms them.

    `pair` holds two classifiers of one session, because an engine's session serves one thread; both passes run at once.
    """

    def probabilities(classifier: Classifier, size: int) -> Floats:
        return np.concatenate([call().probabilities for call in batch_calls(classifier, texts, size)])

    with ThreadPoolExecutor(2) as pool:  # nothing is timed here
        alone, batched = pool.map(probabilities, pair, (1, batch))
    return alone, batched


def batch_sensitivity(alone: Floats, *together: Floats) -> float:
    """Return the largest change of a probability between a text alone and in the company of others."""
    return float(max(np.abs(alone - others).max() for others in together))
