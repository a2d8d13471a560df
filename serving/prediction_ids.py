"""Ids of predictions that nobody can invent: each carries its time, its version and a keyed digest.

All gateways of a home share the key. An id proves that a gateway answered, when, and with which version, without a look-up.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple

DIGEST_BYTES = 8  # 2^64 guesses over HTTP
ID = re.compile(r"(?P<signed>(?P<time>[0-9a-f]{8})[0-9a-f]{16}-(?P<version>[0-9]{1,10})-[0-9]{1,5})-(?P<digest>[0-9a-f]{16})")


class IssuedId(NamedTuple):
    """What an id proves. A control looks like an answer, but no model gave it: it is shown to labellers to measure them."""

    time: int  # seconds of the epoch
    version: int
    is_control: bool


class PredictionIds:
    """Issues and checks ids with one key."""

    def __init__(self, key: bytes) -> None:
        short = hashlib.blake2b(key, digest_size=32).digest()  # BLAKE2 takes keys of at most 64 bytes
        self._answer, self._control = (
            hashlib.blake2b(key=short, digest_size=DIGEST_BYTES, person=person) for person in (b"answer", b"control")
        )

    def issue(self, now: float, version: int, count: int, *, is_control: bool = False) -> list[str]:
        """Return an id for each text of one call. Only the key tells controls from answers."""
        stem = f"{int(now) & 0xFFFFFFFF:08x}{secrets.token_hex(8)}-{version}"
        return [f"{signed}-{self._digest(signed, is_control)}" for signed in (f"{stem}-{number}" for number in range(count))]

    def issue_each(self, now: float, versions: Sequence[int]) -> list[str]:
        """Return an id for each text of one call, whose texts different versions may have answered."""
        ids = {version: iter(self.issue(now, version, versions.count(version))) for version in set(versions)}
        return [next(ids[version]) for version in versions]

    def read(self, id: str) -> IssuedId | None:
        """Return what the id proves; None when no gateway of this home issued it."""
        match = ID.fullmatch(id)
        for is_control in (False, True) if match else ():
            if match and hmac.compare_digest(match["digest"], self._digest(match["signed"], is_control)):
                return IssuedId(int(match["time"], 16), int(match["version"]), is_control)
        return None

    def _digest(self, signed: str, is_control: bool) -> str:
        digest = (self._control if is_control else self._answer).copy()
        digest.update(signed.encode("ascii"))
        return digest.hexdigest()


def issued_at(id: str) -> int | None:
    """Return the time that an id claims, unchecked; None for an id without one."""
    match = ID.fullmatch(id)
    return int(match["time"], 16) if match else None
