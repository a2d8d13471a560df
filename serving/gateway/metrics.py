"""The gateway's Prometheus metrics, all in one place. Base units; no ids in labels but the version."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from serving.processes.http_refusals import refusal_counter

# fine around the thresholds of the rules (10 to 100 ms), so that a P99 read off the buckets is within a quarter of the truth
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
        self._abstentions = Counter(
            "evergreen_abstentions_total", "Texts answered without the model's label", ["version", "role"], registry=registry
        )
        self._expected_abstentions = Gauge(
            "evergreen_abstention_expected_ratio",
            "Share of texts that the version gave no label to on test rows, at most",
            ["version"],
            registry=registry,
        )
        self._prediction_seconds = Histogram(
            "evergreen_prediction_seconds", "From request to answer", ["version", "role"], buckets=SECONDS, registry=registry
        )
        self.count_refusal = refusal_counter(registry)
        self._call_seconds = Histogram(
            "evergreen_triton_call_seconds", "One call to Triton", ["version"], buckets=SECONDS, registry=registry
        )
        self._call_texts = Histogram("evergreen_triton_call_texts", "Texts in one call", buckets=TEXTS, registry=registry)
        self._call_failures = Counter("evergreen_triton_call_failures_total", "Calls that failed", ["version"], registry=registry)
        self._arm_texts = Counter(
            "evergreen_arm_texts_total", "Texts of each arm of a release", ["arm", "outcome"], registry=registry
        )
        self._shadow_dropped = Counter("evergreen_shadow_dropped_total", "Copies not answered", ["reason"], registry=registry)
        self._jobs = Counter("evergreen_job_attempts_total", "Attempts at jobs and callbacks", ["outcome"], registry=registry)
        self._errors = Counter("evergreen_errors_total", "Errors that the gateway survived, by part", ["part"], registry=registry)
        self.triton_ready = Gauge("evergreen_triton_ready", "1 while Triton has the champion ready", registry=registry)
        self.champion = Gauge("evergreen_champion_version", "The champion's version", registry=registry)
        self.challenger_weight = Gauge(
            "evergreen_challenger_weight_ratio", "Share of units that the challenger answers", registry=registry
        )
        self.routes_read = Gauge("evergreen_routes_read_timestamp_seconds", "When the routes were last read", registry=registry)
        # the children of a label set are looked up once: `labels()` takes longer than what it counts
        self._count_request = cache(lambda route, code: self._requests.labels(route, code).inc)
        self._time_request = cache(lambda route: self._request_seconds.labels(route).observe)
        self._count_prediction = cache(lambda version, role, cached: self._predictions.labels(version, role, cached).inc)
        self._time_prediction = cache(lambda version, role: self._prediction_seconds.labels(version, role).observe)

    def count_request(self, route: str, code: int, took_s: float) -> None:
        """Count one answered request."""
        self._count_request(route, code)()
        self._time_request(route)(took_s)

    def count_prediction(self, version: int, role: str, cached: bool, latency_ms: float) -> None:
        """Count one answered text."""
        self._count_prediction(version, role, "yes" if cached else "no")()
        self._time_prediction(version, role)(latency_ms / 1000)

    def count_abstention(self, version: int, role: str) -> None:
        """Count one text of which the model was unsure."""
        self._abstentions.labels(version, role).inc()

    def expect_abstentions(self, version: int, share: float) -> None:
        """Export the share of texts of which a version is expected to be unsure."""
        self._expected_abstentions.labels(version).set(share)

    @contextmanager
    def triton_call(self, version: int, texts: int) -> Iterator[None]:
        """Time one call to Triton, and count it when it fails."""
        begun = time.perf_counter()
        self._call_texts.observe(texts)
        try:
            yield
        except BaseException:
            self._call_failures.labels(version).inc()
            raise
        finally:
            self._call_seconds.labels(version).observe(time.perf_counter() - begun)

    def count_arm(self, arm: str, outcome: str, texts: int) -> None:
        """Count texts of an arm of a release that were answered, that its version failed to answer, or answered with nothing."""
        self._arm_texts.labels(arm, outcome).inc(texts)

    def count_shadow_drop(self, reason: str) -> None:
        """Count one shadow copy that the challenger did not answer."""
        self._shadow_dropped.labels(reason).inc()

    def count_job_attempt(self, outcome: str) -> None:
        """Count one attempt at a job or a callback by its outcome."""
        self._jobs.labels(outcome).inc()

    def count_error(self, part: str) -> None:
        """Count one error that the gateway survived."""
        self._errors.labels(part).inc()

    def add_gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read at each scrape."""
        Gauge(name, description, registry=self.registry).set_function(value)

    def is_ready(self) -> bool:
        """Return the value of `evergreen_triton_ready`."""
        return bool(self.registry.get_sample_value("evergreen_triton_ready"))

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)
