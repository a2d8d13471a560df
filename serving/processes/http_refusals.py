"""Counts and logs what an HTTP service refuses: one metric for all services. The reason is the code of the answer."""

import time
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Counter

LOG_EVERY_S = 10.0

log = structlog.get_logger()


def refusal_counter(registry: CollectorRegistry) -> Callable[[str], None]:
    """Add `evergreen_refused_total` to the registry, and return the function that counts a refusal by its reason."""
    counter = Counter("evergreen_refused_total", "Requests refused, by reason", ["reason"], registry=registry)

    def count(reason: str) -> None:
        counter.labels(reason).inc()

    return count


class RefusalLog:
    """Counts refusals by reason, and logs each reason at most once in `LOG_EVERY_S`: a flood must not fill the disk."""

    def __init__(self, count: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._clock = count, clock
        self._logged_at: dict[str, float] = {}
        self._not_logged: dict[str, int] = {}

    def __call__(self, reason: str) -> None:
        """Count a refusal."""
        self._count(reason)
        count, now = self._not_logged.get(reason, 0) + 1, self._clock()
        if now - self._logged_at.get(reason, -LOG_EVERY_S) < LOG_EVERY_S:
            self._not_logged[reason] = count
            return
        self._logged_at[reason], self._not_logged[reason] = now, 0
        log.warning("requests refused", reason=reason, count=count)
