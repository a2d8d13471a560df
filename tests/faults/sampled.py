"""Look at something again and again, in a thread beside a drill."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def sampled(look: Callable[[], T], every_s: float) -> Iterator[list[T]]:
    """What was seen, a list that grows until the block ends."""
    seen: list[T] = []
    over = Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(look())
            over.wait(every_s)

    thread = Thread(target=watch, name="looks", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
