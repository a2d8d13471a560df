"""What the gateway tells Prometheus: every metric of the process, in one place. Base units, no ids in labels but the version."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

# fine around the limits that rules speak of (10 to 100 ms), so that a P99 read off the buckets is within a quarter of the truth
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5)
TEXTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one gateway on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("evergreen_requests_total", "HTTP requests answered", ["route", "code"], registry=registry)
        self._request_seconds = Histogram(
            "evergreen_request_seconds", "From the first byte to the answer", ["route"], buckets=SECONDS, registry=registry
        )
        self._predictions = Counter(
            "evergreen_predictions_total", "Texts answered", ["version", "role", "cached"], registry=registry
        )
        self._prediction_seconds = Histogram(
            "evergreen_prediction_seconds", "From request to answer", ["version", "role"], buckets=SECONDS, registry=registry
        )
        self._refused = Counter("evergreen_refused_total", "Requests refused, by reason", ["reason"], registry=registry)
        self._call_seconds = Histogram(
            "evergreen_triton_call_seconds", "One call to Triton", ["version"], buckets=SECONDS, registry=registry
        )
        self._call_texts = Histogram("evergreen_triton_call_texts", "Texts in one call", buckets=TEXTS, registry=registry)
        self._call_failures = Counter("evergreen_triton_call_failures_total", "Calls that failed", ["version"], registry=registry)
        self._shadow_dropped = Counter("evergreen_shadow_dropped_total", "Copies not answered", ["reason"], registry=registry)
        self._jobs = Counter("evergreen_job_attempts_total", "Attempts at jobs and callbacks", ["outcome"], registry=registry)
        self._errors = Counter("evergreen_errors_total", "Faults that were survived, by part", ["part"], registry=registry)
        self.triton_ready = Gauge("evergreen_triton_ready", "1 while Triton has the champion ready", registry=registry)
        self.champion = Gauge("evergreen_champion_version", "The version that is champion", registry=registry)
        self.challenger_weight = Gauge("evergreen_challenger_weight_ratio", "Units the challenger answers", registry=registry)
        self.routes_read = Gauge("evergreen_routes_read_timestamp_seconds", "When the routes were read last", registry=registry)
        self.requested = cache(lambda route, code: self._requests.labels(route, code).inc)
        self.request_took = cache(lambda route: self._request_seconds.labels(route).observe)
        self._predicted = cache(lambda version, role, cached: self._predictions.labels(version, role, cached).inc)
        self._took = cache(lambda version, role: self._prediction_seconds.labels(version, role).observe)

    def predicted(self, version: int, role: str, cached: bool, latency_ms: float) -> None:
        """One text answered."""
        self._predicted(version, role, "yes" if cached else "no")()
        self._took(version, role)(latency_ms / 1000)

    @contextmanager
    def calls(self, version: int, texts: int) -> Iterator[None]:
        """Around one call to Triton."""
        begun = time.perf_counter()
        self._call_texts.observe(texts)
        try:
            yield
        except BaseException:
            self._call_failures.labels(version).inc()
            raise
        finally:
            self._call_seconds.labels(version).observe(time.perf_counter() - begun)

    def refused(self, reason: str) -> None:
        """One request turned away."""
        self._refused.labels(reason).inc()

    def shadow_dropped(self, reason: str) -> None:
        """One copy that the challenger did not answer."""
        self._shadow_dropped.labels(reason).inc()

    def job(self, outcome: str) -> None:
        """What became of one attempt at a job or a callback."""
        self._jobs.labels(outcome).inc()

    def failed(self, part: str) -> None:
        """A fault that the gateway lives on with."""
        self._errors.labels(part).inc()

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when Prometheus asks."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def is_ready(self) -> bool:
        """What `evergreen_triton_ready` says."""
        return bool(self.registry.get_sample_value("evergreen_triton_ready"))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
