"""Folders of the versions' references: with the model in the live folder, or fetched from a cluster's model store.

`EVERGREEN_MODEL_STORE` names the store, as for Triton's pods. A failed fetch is tried again after a pause that grows to 15 s.
Until then each cycle fails, so that the monitor does not look as if it were evaluating.
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

REFERENCE_FILES = ("reference.npz", "labels.txt")
OnFetch = Callable[[Literal["fetched", "failed"]], None]

log = structlog.get_logger()


class References:
    """The folders of references; `on_fetch` is called with the result of each attempt to fetch one."""

    def __init__(self, home: Path, store: str, on_fetch: OnFetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._home, self._store, self._on_fetch, self._clock = home, store, on_fetch, clock
        self._pauses = Backoff()
        self._failure: tuple[int, Exception] | None = None  # version and error of the last failed fetch

    def folder(self, release: Release) -> Path:
        """Return the folder with the release's reference; raises `EvergreenError` or `OSError` if it cannot be fetched now."""
        if not self._store:
            return repository(self._home) / model_name(release.version)
        folder = self._home / "references" / model_name(release.version)
        if (folder / MANIFEST).is_file():
            return folder
        now = self._clock()
        if self._failure and self._failure[0] == release.version and not self._pauses.is_due(now):
            raise self._failure[1]
        try:
            store = open_store(self._store, attempts=1, wait_s=0.0)
            fetch_files(store, folder.name, release.content_digest, REFERENCE_FILES, folder)
        except (EvergreenError, OSError) as error:
            pause_s = self._pauses.failed(now)
            self._failure = release.version, error
            self._on_fetch("failed")
            log.warning("fetching a reference failed", version=release.version, retry_in_s=pause_s, error=str(error)[:500])
            raise
        self._failure = None
        self._on_fetch("fetched")
        log.info("reference fetched", version=release.version, store=self._store)
        return folder


def model_store_url() -> str:
    """Return `EVERGREEN_MODEL_STORE`; empty if the models are in the home folder."""
    return os.environ.get("EVERGREEN_MODEL_STORE", "")
