"""Identity of a process that outlives it: host, boot, pid and start time tell later whether it has ended (Linux)."""

import os
import socket
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Return `host boot pid start`, separated by spaces."""
    pid = os.getpid()
    return f"{socket.gethostname()} {this_boot()} {pid} {_started(pid)}"


def is_gone(owner: str) -> bool:
    """Return True when the process that `this_process` identified has ended; False for another host's, and for another text."""
    match owner.split(" "):
        case [host, boot, pid, started] if host == socket.gethostname() and pid.isdecimal():
            return boot != this_boot() or _started(int(pid)) != started
    return False


def this_boot() -> str:
    """Return the id of this boot of the machine."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def _started(pid: int) -> str | None:
    """Return clock ticks from boot to the start of the process, which with the pid identify it within one boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # a zombie has ended
