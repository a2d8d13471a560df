"""The Prometheus metrics of a service that serves pages."""

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from serving.processes.http_refusals import refusal_counter


class PageMetrics:
    """The metrics of one service, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.count_refusal = refusal_counter(registry)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)
