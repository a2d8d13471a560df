"""What died, or cannot be had, is tried again: how long to wait before that, and how an end is told to people."""

FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_S = 0.5, 15.0, 60.0


class Restarts:
    """How long to wait before the next start: doubles while a child keeps dying, begins anew once one has lived for a while."""

    def __init__(self) -> None:
        self._pause_s, self._since, self._due = FIRST_PAUSE_S, 0.0, 0.0

    def started(self, now: float) -> None:
        """A child was started, or this was tried."""
        self._since = now

    def put_off(self, now: float) -> float:
        """A child has died, or could not be started: the wait until it `is_due` again."""
        self._pause_s = FIRST_PAUSE_S if now - self._since >= STABLE_S else min(LONGEST_PAUSE_S, 2 * self._pause_s)
        self._since, self._due = now, now + self._pause_s
        return self._pause_s

    def is_due(self, now: float) -> bool:
        """Whether the next start may be tried."""
        return now >= self._due


def how_it_ended(code: int | None) -> str:
    """A process's exit code, for people."""
    return f"signal {-code}" if code and code < 0 else f"exit code {code}"
