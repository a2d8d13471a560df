"""Times candidates in turns, and goes on only where the choice between them is close. Knows no session."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from pipeline.params import Session

BASELINE = "onnxruntime-fp32"
NOISE = 1.25  # between two rounds of one session: a lead beyond this needs no further round
Clock = Callable[[], float]
Calls = Mapping[str, Sequence[Callable[[], object]]]  # name → one call for each batch, the same batches for all
Seconds = Mapping[str, Sequence[Sequence[float]]]  # name → rounds → batches


def time_round(calls: Calls, turn: int, clock: Clock) -> dict[str, list[float]]:
    """Return the seconds of each batch: all do one batch after the other, and another begins each time, to share the noise."""
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(len(calls[names[0]])):
        first = (turn + number) % len(names)
        for name in [*names[first:], *names[:first]]:
            start = clock()
            calls[name][number]()
            seconds[name].append(clock() - start)
    return seconds


def speedups_of(seconds: Seconds) -> dict[str, float]:
    """Return how many times as fast as fp32 each one is: the median over batches, of which each has its median of rounds."""
    by_batch = {name: np.median(rounds, axis=0) for name, rounds in seconds.items()}
    return {name: float(np.median(by_batch[BASELINE] / times)) for name, times in by_batch.items()}


def close_rivals(seconds: Seconds, refused: Collection[str], settings: Session) -> list[str]:
    """Return the candidates among which noise could decide; fp32 is one of them unless another is clearly faster."""
    if settings.choice != "auto":
        return []
    speedups = {name: speedup for name, speedup in speedups_of(seconds).items() if name not in refused}
    best = max(speedups.values(), default=0.0)
    needed = max(best / (settings.min_speedup * NOISE), settings.min_speedup / NOISE)
    close = [name for name, speedup in speedups.items() if speedup >= needed and name != BASELINE]
    if close and best < settings.min_speedup * NOISE:
        close.append(BASELINE)
    return close if len(close) > 1 else []


def time_rivals(
    calls: Calls,
    seconds: dict[str, list[list[float]]],
    refused: Collection[str],
    settings: Session,
    clock: Clock,
) -> None:
    """Time rivals until one of them is clearly the fastest, or each has had `settings.rounds`; add to their seconds."""
    while close := close_rivals(seconds, refused, settings):
        turn = min(len(seconds[name]) for name in close)
        if turn >= settings.rounds:
            return
        late = {name: calls[name] for name in close if len(seconds[name]) == turn}
        for name, spent in time_round(late, turn, clock).items():
            seconds[name].append(spent)
