"""Sample a value repeatedly, in a thread beside a drill."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def sampled(take_sample: Callable[[], T], every_s: float) -> Iterator[list[T]]:
    """Yield the list of samples, which grows until the block ends."""
    samples: list[T] = []
    is_over = Event()

    def run() -> None:
        while not is_over.is_set():
            samples.append(take_sample())
            is_over.wait(every_s)

    thread = Thread(target=run, name="sampler", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()
