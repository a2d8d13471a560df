"""Read how much memory the processes of a served version take, on this machine."""

from pathlib import Path

import psutil

from serving.triton.shell_path import shell_path


def model_memory(home: Path, model: str) -> int | None:
    """Return the resident bytes of all processes of a model that Triton serves from this home; None when none runs here."""
    folder = str(shell_path(home / "models") / model)
    sizes = [size for process in psutil.process_iter() if (size := _size(process, folder)) is not None]
    return sum(sizes) if sizes else None


def _size(process: psutil.Process, folder: str) -> int | None:
    """Return the resident bytes of a process of Triton's Python backend that runs the model of this folder."""
    try:
        line = process.cmdline()
        if not line or not line[0].endswith("triton_python_backend_stub"):
            return None
        return int(process.memory_info().rss) if any(part.startswith(f"{folder}/") for part in line[1:]) else None
    except psutil.Error:  # it has just ended
        return None
