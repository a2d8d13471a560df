"""Where the reference of a version lies: with the model in the live folder, or fetched from the model store of a cluster.

`EVERGREEN_MODEL_STORE` names the store, as for pods of Triton. A reference that cannot be had is asked for again, with a pause
that grows to a quarter of a minute. Until then each cycle fails on it: nobody may take the monitor for one that judges.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from pipeline.errors import EvergreenError
from serving.processes.supervisor import Backoff
from serving.release.fetch_repository import fetch_files, open_store
from serving.release.manifest import MANIFEST, model_name, repository
from serving.release.release_table import Release

NEEDED = ("reference.npz", "labels.txt")
Told = Callable[[Literal["fetched", "failed"]], None]

log = structlog.get_logger()


class References:
    """The folders of references; `told` hears of each attempt to fetch one."""

    def __init__(self, home: Path, store: str, told: Told, clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._store, self._told, self._clock = home, store, told, clock
        self._pauses = Backoff()
        self._failed: tuple[int, Exception] | None = None  # version, and why it is not here yet

    def folder(self, release: Release) -> Path:
        """The folder that holds it; raises `EvergreenError` or `OSError` where it cannot be had, or not yet again."""
        if not self._store:
            return repository(self._home) / model_name(release.version)
        folder = self._home / "references" / model_name(release.version)
        if (folder / MANIFEST).is_file():
            return folder
        now = self._clock()
        if self._failed and self._failed[0] == release.version and not self._pauses.is_due(now):
            raise self._failed[1]
        try:
            store = open_store(self._store, attempts=1, wait_s=0.0)
            fetch_files(store, folder.name, release.content_digest, NEEDED, folder)
        except (EvergreenError, OSError) as error:
            pause_s = self._pauses.failed(now)
            self._failed = release.version, error
            self._told("failed")
            log.warning("a reference cannot be fetched", version=release.version, again_in_s=pause_s, error=str(error)[:500])
            raise
        self._failed = None
        self._told("fetched")
        log.info("a reference was fetched", version=release.version, store=self._store)
        return folder


def store_url() -> str:
    """`EVERGREEN_MODEL_STORE`; empty where the models lie in the home."""
    return os.environ.get("EVERGREEN_MODEL_STORE", "")
