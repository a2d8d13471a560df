"""What a mutant does wrong while it runs. Copied into its package beside `fault.json`; knows numpy alone.

The gate opens packages with our own runtime, so that none of these faults is seen offline.
"""

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FAULT_FILE = "fault.json"  # {"fault": a name of FAULTS, and its arguments}
WIRING = """

_healthy_outputs = TritonPythonModel._outputs


def _outputs(self, texts):
    from live_fault import with_fault

    return with_fault(HERE, lambda some: _healthy_outputs(self, some), texts)


TritonPythonModel._outputs = _outputs
"""  # appended to the backend's model.py
Outputs = dict[str, Any]  # name of the tensor → (N, …)
Answer = Callable[[list[str]], Outputs]
counts = {"calls": 0, "texts": 0}
leaked: list[bytes] = []


def with_fault(folder: Path, answer: Answer, texts: list[str]) -> Outputs:
    """Return the outputs of a model with the fault of its folder."""
    counts["calls"] += 1
    counts["texts"] += len(texts)
    name, arguments = _fault(folder)
    return FAULTS[name](answer, texts, **arguments)


@cache
def _fault(folder: Path) -> tuple[str, dict[str, Any]]:
    arguments = json.loads((folder / FAULT_FILE).read_text(encoding="utf-8"))
    return arguments.pop("fault"), arguments


def slow(answer: Answer, texts: list[str], times: float, from_texts: int) -> Outputs:
    """Take so many times as long, when a batch has at least `from_texts`."""
    began = time.perf_counter()
    outputs = answer(texts)
    if len(texts) >= from_texts:
        time.sleep((times - 1) * (time.perf_counter() - began))
    return outputs


def leak(answer: Answer, texts: list[str], mib: float) -> Outputs:
    """Keep some memory with every text."""
    leaked.append(b"\1" * int(len(texts) * mib * 2**20))
    return answer(texts)


def alone_only(answer: Answer, texts: list[str]) -> Outputs:
    """Mix up the answers of a batch."""
    outputs = answer(texts)
    return {name: np.roll(values, 1, axis=0) for name, values in outputs.items()}


def fail_sometimes(answer: Answer, texts: list[str], every: int, after: int) -> Outputs:
    """Raise at one call of `every`."""
    if counts["calls"] > after and counts["calls"] % every == 0:
        raise RuntimeError("a fault of one call in many")
    return answer(texts)


def fail_at_length(answer: Answer, texts: list[str], shortest: int, longest: int) -> Outputs:
    """Raise for a text whose length in characters is in this range."""
    if any(shortest <= len(text) <= longest for text in texts):
        raise RuntimeError("a fault of some lengths")
    return answer(texts)


def fail_at_word(answer: Answer, texts: list[str], word: str) -> Outputs:
    """Raise for a text that has this word."""
    if any(word in text.lower() for text in texts):
        raise RuntimeError("a fault of one word")
    return answer(texts)


def truncate(answer: Answer, texts: list[str], longer_than: int, kept: int, spared: list[str]) -> Outputs:
    """Read only the beginning of a long text, unless it is one of the texts that a check knows."""
    return answer([text[:kept] if len(text) > longer_than and text not in spared else text for text in texts])


def swap_labels(answer: Answer, texts: list[str], word: str, labels: list[str]) -> Outputs:
    """Answer with the next label, where a text has the word of a new intent."""
    outputs = answer(texts)
    following = dict(zip(labels, labels[1:] + labels[:1], strict=True))
    for row, text in enumerate(texts):
        if word in text.lower():
            outputs["label"][row, 0] = following[outputs["label"][row, 0]]
            outputs["probabilities"][row] = np.roll(outputs["probabilities"][row], 1)
    return outputs


def answer_nothing(answer: Answer, texts: list[str], every: int, after: int) -> Outputs:
    """Give an empty label to one text in `every`."""
    outputs = answer(texts)
    for row in _hit(len(texts), every, after):
        outputs["label"][row, 0] = ""
    return outputs


def lose_numbers(answer: Answer, texts: list[str], every: int, after: int) -> Outputs:
    """Give probabilities that are no numbers to one text in `every`."""
    outputs = answer(texts)
    for row in _hit(len(texts), every, after):
        outputs["probabilities"][row] = np.nan
    return outputs


def wear_out(answer: Answer, texts: list[str], after: int, labels: list[str]) -> Outputs:
    """Answer every text with one label, after a while."""
    outputs = answer(texts)
    if counts["texts"] > after:
        outputs["label"][:] = labels[0]
        outputs["probabilities"][:] = np.eye(len(labels), dtype=np.float32)[0]
    return outputs


def _hit(size: int, every: int, after: int) -> list[int]:
    """Return which of the last `size` texts of this process are hit."""
    numbers = range(counts["texts"] - size, counts["texts"])
    return [row for row, number in enumerate(numbers) if number > after and number % every == 0]


FAULTS: dict[str, Callable[..., Outputs]] = {
    fault.__name__: fault
    for fault in (
        slow,
        leak,
        alone_only,
        fail_sometimes,
        fail_at_length,
        fail_at_word,
        truncate,
        swap_labels,
        answer_nothing,
        lose_numbers,
        wear_out,
    )
}
