"""Whose a listening service is. Our services name their home in `/healthz`, by a digest.

Clones have the same ports by default, so on a machine with two of them a port that accepts connections proves nothing.
"""

import json
import socket
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.request import urlopen

from pipeline.home import home_digest
from serving.processes.addresses import base_url, is_loopback

Owner = Literal["nobody", "this home", "another", "unknown"]
CONNECTS_WITHIN_S, ANSWERS_WITHIN_S = 0.2, 1.0


class Sign(NamedTuple):
    """The path of a program's JSON page, and a test whether a page belongs to this home's program.

    The test may raise `LookupError` or `TypeError` for the page of another program.
    """

    path: str
    is_ours: Callable[[Any], bool]


def health(service: str, home: Path) -> dict[str, str]:
    """Return what `/healthz` of a service says."""
    return {"status": "alive", "service": service, "home": home_digest(home)}


def server_id(home: Path) -> str:
    """Return the id that this home gives to Triton, which has no `/healthz` of ours."""
    return f"evergreen-{home_digest(home)}"


def health_sign(service: str, home: Path) -> Sign:
    """Return the sign of a service with `/healthz`."""
    return Sign("/healthz", lambda body: bool(body == health(service, home)))


def find_owner(host: str, port: int, sign: Sign) -> Owner:
    """Return whose program listens there.

    It is `unknown` where nothing answers in time, and on another machine, where the home may have another path.
    """
    if not is_listening(host, port):
        return "nobody"
    other: Owner = "another" if is_loopback(host) else "unknown"
    try:
        with urlopen(f"{base_url(host, port)}{sign.path}", timeout=ANSWERS_WITHIN_S) as answer:  # noqa: S310 (address of params)
            return "this home" if sign.is_ours(json.load(answer)) else other
    except OSError as error:  # urllib wraps those of connecting
        return "unknown" if isinstance(getattr(error, "reason", error), TimeoutError) else other
    except (HTTPException, ValueError, LookupError, TypeError):  # another protocol, another form
        return other


def is_listening(host: str, port: int) -> bool:
    """Return whether anything accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=CONNECTS_WITHIN_S):
            return True
    except OSError:
        return False
