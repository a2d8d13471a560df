"""The Prometheus metrics of the flywheel's process. An unknown value is absent, never 0."""

from prometheus_client import Counter, Gauge

from monitoring.flywheel.queue.round import REASONS_OF_CANDIDATES, RoundSummary
from monitoring.pages.metrics import PageMetrics


class FlywheelMetrics(PageMetrics):
    """The metrics of one process, in a separate registry."""

    def __init__(self) -> None:
        super().__init__()
        self._success, self._duration, self._clusters, self._queue = (
            Gauge(f"evergreen_flywheel_{name}", text, registry=None)
            for name, text in (
                ("last_success_timestamp_seconds", "Time of the last round"),
                ("round_seconds", "Duration of the last round that this process has made"),
                ("clusters", "Clusters of the last round"),
                ("queue_texts", "Texts of the last round, in the order in which people should label them"),
            )
        )
        self._candidates = Gauge(
            "evergreen_flywheel_candidates", "Texts of the last round that meet a criterion", ["reason"], registry=self.registry
        )
        self._failures = Counter("evergreen_flywheel_failures_total", "Rounds that failed", registry=self.registry)
        self._exported: set[Gauge] = set()

    def set_round(self, summary: RoundSummary) -> None:
        """Export the last round."""
        self._set(self._success, summary.made_at)
        self._set(self._clusters, summary.clusters)
        self._set(self._queue, summary.texts)
        for reason in REASONS_OF_CANDIDATES:
            self._candidates.labels(reason).set(summary.reasons.get(reason, 0))

    def set_duration(self, took_s: float) -> None:
        """Export how long a round took."""
        self._set(self._duration, took_s)

    def failed(self) -> None:
        """Count a failed round."""
        self._failures.inc()

    def _set(self, gauge: Gauge, value: float) -> None:
        """Set a gauge that is exported from its first value on."""
        gauge.set(value)
        if gauge not in self._exported:
            self.registry.register(gauge)
            self._exported.add(gauge)
