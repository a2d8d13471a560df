"""Choose the version that answers: the champion, or the challenger for its share of units. Shares change at run time.

Beside the challenger's units stands a baseline: as many others, which the champion answers at the same time, for comparison.
"""

import hashlib
from typing import NamedTuple

import sqlalchemy as sa

from pipeline.errors import InputError
from serving.arm_counts import Arm
from serving.release.release_table import roles
from state.tables import routing


class Routes(NamedTuple):
    """Champion, challenger and the challenger's shares, at one revision of the release table and the routing row."""

    revision: int
    champion: int | None
    challenger: int | None
    challenger_weight: float  # share of units that the challenger answers
    shadow_share: float  # share of the champion's texts copied to the challenger
    salt: str
    previous: int | None = None
    keep_previous_until: float | None = None  # the previous champion stays loaded until then; seconds of the epoch

    @property
    def served(self) -> set[int]:
        """Return the versions that get traffic, copies included."""
        wants_challenger = self.challenger is not None and (self.challenger_weight > 0 or self.shadow_share > 0)
        return {version for version in (self.champion, self.challenger if wants_challenger else None) if version is not None}

    def held(self, now: float) -> int | None:
        """Return the previous champion while it stays loaded, ready to be champion again."""
        return self.previous if self.keep_previous_until is not None and now < self.keep_previous_until else None

    def loaded(self, now: float) -> set[int]:
        """Return the versions that Triton keeps loaded: those that get traffic, and the previous champion while it is held."""
        held = self.held(now)
        return self.served if held is None else {*self.served, held}


class ArmChoice(NamedTuple):
    """The version that answers a unit, and the arm of the release that the unit belongs to."""

    version: int
    arm: Arm


NO_ROUTES = Routes(0, None, None, 0.0, 0.0, "")


def choose_arm(routes: Routes, unit: str) -> ArmChoice | None:
    """Return version and arm for a unit, None when nothing is published. With one salt, a growing weight only adds units.

    The challenger has the units with the lowest hashes, the baseline as many with the highest ones.
    """
    if routes.champion is None:
        return None
    if routes.challenger is None:
        return ArmChoice(routes.champion, "champion")
    rank = _hash01(routes.salt, unit)
    if rank < routes.challenger_weight:
        return ArmChoice(routes.challenger, "challenger")
    return ArmChoice(routes.champion, "baseline" if rank >= 1 - routes.challenger_weight else "champion")


def unit_rank(salt: str, unit: str) -> float:
    """Return the weight, 0 to 1, above which the challenger answers this unit under this salt."""
    return _hash01(salt, unit)


def is_shadowed(routes: Routes, prediction: str) -> bool:
    """Return True when the text of this prediction is copied to the challenger."""
    return routes.challenger is not None and copy_rank(routes, prediction) < routes.shadow_share


def copy_rank(routes: Routes, prediction: str) -> float:
    """Return the share of copies, 0 to 1, above which the text of this prediction is copied."""
    return _hash01(routes.salt, prediction)


def read_routes(connection: sa.Connection) -> Routes:
    """Return the current routes."""
    row = connection.execute(sa.select(routing)).one()
    by_role = roles(connection)
    return Routes(
        row.revision,
        by_role.get("champion"),
        by_role.get("challenger"),
        row.challenger_weight,
        row.shadow_share,
        row.salt,
        by_role.get("previous"),
        row.keep_previous_until,
    )


def set_routing(connection: sa.Connection, *, challenger_weight: float, shadow_share: float) -> Routes:
    """Set the challenger's share of units and of copies; raises `InputError` without a challenger and outside of 0 to 1."""
    for name, share in (("challenger weight", challenger_weight), ("shadow share", shadow_share)):
        if not 0 <= share <= 1:
            raise InputError(name, f"{share} is not a share", "give a number from 0 to 1")
    if (challenger_weight or shadow_share) and "challenger" not in roles(connection):
        raise InputError("routing", "there is no challenger", "publish one: .venv/bin/evergreen publish")
    connection.execute(
        routing.update().values(revision=routing.c.revision + 1, challenger_weight=challenger_weight, shadow_share=shadow_share)
    )
    return read_routes(connection)


def _hash01(salt: str, unit: str) -> float:
    """Hash the unit to [0, 1); different salts give independent values."""
    digest = hashlib.blake2b(f"{salt}\n{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
