"""The inbox's Prometheus metrics."""

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from serving.processes.http_refusals import refusal_counter


class InboxMetrics:
    """The metrics of one inbox, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.count_refusal = refusal_counter(registry)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)
