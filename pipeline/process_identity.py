"""Who a process is, so that it can be told later whether it is gone: host, boot, number and when it started (Linux)."""

import os
import socket
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Words without spaces in between: host, boot, pid, start."""
    pid = os.getpid()
    return f"{socket.gethostname()} {_boot()} {pid} {_started(pid)}"


def is_gone(owner: str) -> bool:
    """Whether the process that `this_process` named has ended; one of another host is not known to have."""
    host, boot, pid, started = owner.split(" ")
    if host != socket.gethostname():
        return False
    return boot != _boot() or _started(int(pid)) != started


def _boot() -> str:
    return BOOT_ID.read_text(encoding="ascii").strip()


def _started(pid: int) -> str | None:
    """Clock ticks from the boot to its start: with the pid they name a process for the time of a boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # a zombie does nothing any more
