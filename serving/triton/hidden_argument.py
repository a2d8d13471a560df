"""Starts a program with an argument that other users of the machine cannot read (Linux).

Everyone can read `/proc/<pid>/cmdline`; only the owner can read `/proc/<pid>/environ`. The new program stops before its first
instruction. There its last argument, a placeholder, is pointed at the text of an environment variable. The memory that /proc
shows as the command line holds the placeholder from beginning to end.
"""

import ctypes
import os
import signal
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.lifetime import ChildProcess, start_child

PTRACE_TRACEME, PTRACE_DETACH = 0, 17
PLACEHOLDER = "(hidden)"
VARIABLE = "EVERGREEN_HIDDEN_ARGUMENT"
POINTER = struct.Struct("P")
START_STACK, ENV_START, ENV_END = 28, 50, 51  # fields of /proc/<pid>/stat, counted from 1


class ProcessMemory(NamedTuple):
    """Where a process that has just been started keeps its arguments and its environment."""

    start_stack: int  # the number of arguments, then a pointer to each
    env_start: int
    env_end: int


def start_with_hidden(command: Sequence[str], hidden: str, *, environment: Mapping[str, str], output: BinaryIO) -> ChildProcess:
    """Start the command with `hidden` as its last argument, in its own session; raise `OSError` where the kernel refuses to."""

    def stop_at_exec() -> None:
        if ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, None, None):
            os._exit(1)

    process = start_child(
        [*command, PLACEHOLDER],
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**environment, VARIABLE: hidden},
        start_new_session=True,
        before_exec=stop_at_exec,
    )
    try:
        _, status = os.waitpid(process.pid, 0)
        if not os.WIFSTOPPED(status):
            process.returncode = os.waitstatus_to_exitcode(status)
            raise PermissionError("the kernel does not allow a process to be traced by its parent")
        _point_last_argument_at_variable(process.pid)
        if ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_DETACH, process.pid, None, None):
            raise OSError(ctypes.get_errno(), "the process could not be released")
    except BaseException:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        raise
    return process


def _point_last_argument_at_variable(pid: int) -> None:
    at = _memory(pid)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(at.env_start)
        variables = b"\0" + memory.read(at.env_end - at.env_start)
        value = at.env_start + variables.index(f"\0{VARIABLE}=".encode()) + len(VARIABLE) + 1
        memory.seek(at.start_stack)
        (count,) = POINTER.unpack(memory.read(POINTER.size))
        memory.seek(at.start_stack + count * POINTER.size)  # past the count, the last of `count` pointers
        memory.write(POINTER.pack(value))


def _memory(pid: int) -> ProcessMemory:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the third field is the first after the name
    return ProcessMemory(*(int(fields[number - 3]) for number in (START_STACK, ENV_START, ENV_END)))
