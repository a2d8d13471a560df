"""Moments that waits are measured from. The wall clock may jump, the boot clock may not, and each host has its own boot clock."""

import time
from typing import NamedTuple

from pipeline.process_identity import this_boot


class Moment(NamedTuple):
    """One moment on both clocks."""

    wall: float  # seconds of the epoch
    mono: float  # seconds since this boot, including suspend
    boot: str


def read_clock() -> Moment:
    """Return the current moment (Linux)."""
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), this_boot())


def elapsed_s(then: Moment, now: Moment) -> float:
    """Return the seconds since then, never negative.

    Within a boot the wall clock is ignored. Across boots or hosts it is trusted up to the time since this boot: after a restart
    of the machine a wait may take longer than it should, but setting the clock cannot skip it.
    """
    if then.boot == now.boot:
        return max(0.0, now.mono - then.mono)
    return max(0.0, min(now.wall - then.wall, now.mono))


def is_past(deadline: Moment, now: Moment) -> bool:
    """Return whether a lease has expired: by the boot clock within a boot, else by the wall clock."""
    return now.mono >= deadline.mono if deadline.boot == now.boot else now.wall >= deadline.wall


def later(now: Moment, by_s: float) -> Moment:
    """Return the moment this many seconds from now."""
    return Moment(now.wall + by_s, now.mono + by_s, now.boot)
