"""The moves of a release on what serves: shares, promotion, roll-back. Decides nothing."""

from pathlib import Path
from typing import Protocol

from pipeline.params import Params
from serving.processes import Announce
from serving.release.live import swap
from serving.release.live.roll_back import roll_back
from serving.release.release_table import CheckLease, Record


class Serving(Protocol):
    """What serves, as a release moves it.

    `check_lease` raises in each transaction when the caller may no longer write; `record` writes the release's end in it.
    """

    def route(self, weight: float, shadow_share: float, check_lease: CheckLease) -> None:
        """Set the challenger's shares; raises `RefusedError` when it does not load or answers otherwise than offline."""

    def promote(self, version: int, check_lease: CheckLease, record: Record) -> bool:
        """Make the version champion; return whether a Triton serves it."""

    def roll_back(self, version: int, check_lease: CheckLease, record: Record) -> None:
        """Give everything to the champion, and retire the version."""


class LocalServing:
    """The Triton, release table and registry of a home."""

    def __init__(self, params: Params, home: Path, announce: Announce) -> None:
        self._params, self._home, self._announce = params, home, announce

    def route(self, weight: float, shadow_share: float, check_lease: CheckLease) -> None:
        """Load and check the challenger, then set its shares."""
        swap.route(
            self._params,
            self._home,
            challenger_weight=weight,
            shadow_share=shadow_share,
            announce=self._announce,
            check_lease=check_lease,
        )

    def promote(self, version: int, check_lease: CheckLease, record: Record) -> bool:
        """Swap the champion."""
        return swap.swap(version, self._params, self._home, self._announce, check_lease, record).was_served

    def roll_back(self, version: int, check_lease: CheckLease, record: Record) -> None:
        """Take the shares away first, then what follows from it."""
        roll_back(version, self._params, self._home, self._announce, check_lease, record)
