"""People who are logged in, by the random ids of their cookies. In memory alone: a token is never written to a file.

So a restart of the console asks for the token again.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable

MOST = 1000  # sessions; the oldest one gives way
ID_BYTES = 32


class ConsoleSessions:
    """Tokens by session id; a session ends when nobody has used it for `idle_s`."""

    def __init__(self, idle_s: float, clock: Callable[[], float]) -> None:
        self._idle_s, self._clock = idle_s, clock
        self._open: OrderedDict[str, tuple[str, float]] = OrderedDict()  # id → token, when it was last used

    def start(self, token: str) -> str:
        """Return the id of a new session."""
        id = new_id()
        self._open[id] = token, self._clock()
        while len(self._open) > MOST:
            self._open.popitem(last=False)
        return id

    def token_of(self, id: str) -> str | None:
        """Return the token of a session that has not expired, and count this as a use."""
        token, used_at = self._open.pop(id, ("", 0.0))
        now = self._clock()
        if not token or now - used_at > self._idle_s:
            return None
        self._open[id] = token, now
        return token

    def end(self, id: str) -> None:
        """Forget a session."""
        self._open.pop(id, None)


def new_id() -> str:
    """Return an id that nobody can guess."""
    return secrets.token_urlsafe(ID_BYTES)
