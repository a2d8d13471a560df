"""Moments that waits are measured from: the wall clock may jump, that of the boot may not, and other hosts have other boots."""

import time
from pathlib import Path
from typing import NamedTuple

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Moment(NamedTuple):
    """One moment, on both clocks."""

    wall: float  # seconds of the epoch
    mono: float  # seconds since this boot, time asleep included
    boot: str


def read_clock() -> Moment:
    """Now (Linux)."""
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), BOOT_ID.read_text(encoding="ascii").strip())


def elapsed_s(then: Moment, now: Moment) -> float:
    """Seconds since then, never negative.

    Within a boot the wall clock is not asked. Across boots, or hosts, it is believed up to the time since this boot: after a
    restart of the machine a wait may take longer than it should, but it cannot be skipped by setting the clock.
    """
    if then.boot == now.boot:
        return max(0.0, now.mono - then.mono)
    return max(0.0, min(now.wall - then.wall, now.mono))


def is_past(deadline: Moment, now: Moment) -> bool:
    """Whether a lease's end has come: by the clock of the boot, elsewhere by the wall clock."""
    return now.mono >= deadline.mono if deadline.boot == now.boot else now.wall >= deadline.wall


def later(now: Moment, by_s: float) -> Moment:
    """So many seconds from now."""
    return Moment(now.wall + by_s, now.mono + by_s, now.boot)
