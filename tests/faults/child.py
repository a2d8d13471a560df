"""Start a module of the project as a process of its own, which ends with the test."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.lifetime import end_with_parent

STOP_TIMEOUT_S = 30.0


def start_module(
    module: str, log: Path, environment: Mapping[str, str], *arguments: str, is_session: bool = False
) -> subprocess.Popen[bytes]:
    """Start `python -m <module>` in the folder of its log without waiting for it; with `is_session` Ctrl-C does not reach it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=is_session,
            preexec_fn=end_with_parent,
        )


def stop(process: subprocess.Popen[bytes], within_s: float = STOP_TIMEOUT_S) -> None:
    """End the process with SIGTERM and wait for it."""
    if process.poll() is None:
        process.terminate()
    process.wait(timeout=within_s)


@contextmanager
def running_module(
    module: str, log: Path, environment: Mapping[str, str], within_s: float = STOP_TIMEOUT_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m <module>` for the block, and end it with SIGTERM."""
    process = start_module(module, log, environment)
    try:
        yield process
    finally:
        stop(process, within_s)
