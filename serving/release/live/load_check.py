"""Check a loaded version before callers get its answers: golden answers in all sizes of a call, and long texts.

A model may be right in one large batch and wrong, or dead, for one text, for a few, or beyond some length.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.params import Serve
from pipeline.runtime.outputs import ModelOutputs
from pipeline.session.golden_answers import GoldenAnswers, golden_differences
from serving.triton.client import BATCH_TEXTS, TritonError, infer_grpc

SIZES = {BATCH_TEXTS: "", 8: " in batches of 8", 1: " one text at a time"}  # texts in a call → how a message says it
LONG_CHARACTERS = (300, 1_000, 4_000, 16_000)
NEIGHBOURS = 3  # golden texts in the call of a long text: their answers must stay right


class LoadProblem(NamedTuple):
    """What is wrong with a loaded version."""

    what: str
    is_golden: bool  # an answer differs from the offline one; else a long text is not answered as it should be


def find_problem(serve: Serve, model: str, golden: GoldenAnswers) -> LoadProblem | None:
    """Return the first problem of a loaded version, None when it answers as its package did offline."""
    for size, how in SIZES.items():
        if problem := _golden_problem(serve, model, golden, size, how):
            return LoadProblem(problem, True)
    problem = _long_problem(serve, model, golden)
    return LoadProblem(problem, False) if problem else None


def _golden_problem(serve: Serve, model: str, golden: GoldenAnswers, size: int, how: str) -> str | None:
    """Describe how the server's golden answers differ from the offline ones in calls of this size; None when they do not."""
    # a text that no call had before, so that a cache of Triton's cannot answer from an earlier load of this version
    extra = [secrets.token_hex(8)] if size > 1 else []
    step = size - len(extra)
    try:
        parts = [infer_grpc(serve, model, [*extra, *golden.texts[at : at + step]]) for at in range(0, len(golden.texts), step)]
    except TritonError as error:
        return f"it did not answer the golden texts{how}: {error}"
    labels = [label for part in parts for label in part.labels[len(extra) :]]
    differences = golden_differences(golden, labels, np.concatenate([part.probabilities[len(extra) :] for part in parts]))
    if not differences:
        return None
    return f"{len(differences)} of {len(golden.texts)} golden answers differ from the offline ones{how}: {differences[0]}"


def _long_problem(serve: Serve, model: str, golden: GoldenAnswers) -> str | None:
    """Describe what is wrong with the answers to long texts, alone and beside short ones; None when nothing is."""
    near = golden._replace(
        texts=golden.texts[:NEIGHBOURS], labels=golden.labels[:NEIGHBOURS], probabilities=golden.probabilities[:NEIGHBOURS]
    )
    for characters in LONG_CHARACTERS:
        text = long_text(golden.texts, characters)
        try:
            alone = infer_grpc(serve, model, [text])
            beside = infer_grpc(serve, model, [text, *near.texts])
        except TritonError as error:
            return f"it did not answer a text of {characters} characters: {error}"
        if problem := _answer_problem(alone, beside, near):
            return f"a text of {characters} characters: {problem}"
    return None


def _answer_problem(alone: ModelOutputs, beside: ModelOutputs, near: GoldenAnswers) -> str | None:
    if not alone.labels[0] or not np.isfinite(alone.probabilities).all():
        return f"the answer is broken: label {alone.labels[0]!r}, confidence {alone.probabilities.max()}"
    differences = golden_differences(near, beside.labels[1:], beside.probabilities[1:])
    return f"an answer beside it differs from the offline one: {differences[0]}" if differences else None


def long_text(texts: Sequence[str], characters: int) -> str:
    """Return the texts, one after the other and again, as one text of this length.

    >>> long_text(["where is it?", "it leaks"], 24)
    'where is it? it leaks wh'
    """
    joined = " ".join(texts) + " "
    return (joined * (characters // len(joined) + 1))[:characters]
