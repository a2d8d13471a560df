"""The Prometheus metrics of the receiver and the controller."""

from collections.abc import Callable, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from monitoring.decisions import Decided
from monitoring.release.metrics import ReleaseMetrics
from monitoring.retrain.journal import STEPS, FinalState
from serving.processes.http_refusals import refusal_counter

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STEP_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)


class ReceiverMetrics:
    """The metrics of one receiver, in a separate registry."""

    def __init__(self, pending: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Histogram(
            "evergreen_retrain_webhook_seconds",
            "From the head of a webhook to its response",
            ["code"],
            buckets=SECONDS,
            registry=registry,
        )
        self._received = Counter("evergreen_retrain_alerts_total", "Alerts received", ["kind"], registry=registry)
        self._truncated = Counter("evergreen_retrain_alerts_truncated_total", "Alerts Alertmanager cut off", registry=registry)
        self.count_refusal = refusal_counter(registry)
        self._failures = Counter("evergreen_retrain_receiver_failures_total", "Commits that failed", registry=registry)
        queue = Gauge("evergreen_retrain_webhooks_waiting", "Webhooks that wait for a commit", registry=registry)
        queue.set_function(pending)

    def answered(self, code: int, seconds: float) -> None:
        """Record the response to a webhook."""
        self._requests.labels(str(code)).observe(seconds)

    def received(self, new: int, known: int) -> None:
        """Count alerts; a webhook that was committed before counts as one known alert."""
        self._received.labels("new").inc(new)
        self._received.labels("known").inc(known)

    def truncated(self, alerts: int) -> None:
        """Count alerts that Alertmanager cut off."""
        self._truncated.inc(alerts)

    def failed(self) -> None:
        """Count a failed commit."""
        self._failures.inc()

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)


class ControllerMetrics:
    """The metrics of one controller, in a separate registry. Counters start at 0, so that a first failure is an increase."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.count_refusal = refusal_counter(registry)
        self._decisions = Counter("evergreen_retrain_decisions_total", "Decisions", ["verdict", "reason"], registry=registry)
        self._ended = Counter(
            "evergreen_retrain_ended_total", "Retrains that ended", ["version", "state", "step"], registry=registry
        )
        self._step_failures = Counter(
            "evergreen_retrain_step_failures_total", "Attempts at a step that failed", ["step"], registry=registry
        )
        self._step_seconds = Histogram(
            "evergreen_retrain_step_seconds",
            "Duration of successful steps",
            ["step"],
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self._failures = Counter("evergreen_retrain_controller_failures_total", "Faults survived", ["part"], registry=registry)
        self._orphans = Counter("evergreen_retrain_orphans_closed_total", "MLflow runs whose owner had died", registry=registry)
        self._waiting = Gauge(
            "evergreen_retrain_waiting_alerts", "Alerts that wait for a decision", ["reason"], registry=registry
        )
        self._decision = Gauge(
            "evergreen_retrain_decision_info",
            "1: what was decided on the champion's alerts, as people read it",
            ["version", "state", "decided", "next_step", "command"],
            registry=registry,
        )
        self._said: tuple[str, ...] | None = None
        self._running = Gauge("evergreen_retrain_running", "1 while a retrain runs", registry=registry)
        self._spent = Gauge("evergreen_retrain_budget_spent_ratio", "Share of the daily compute budget", registry=registry)
        self._withdrawn = Gauge("evergreen_labels_withdrawn", "Labels from people that were withdrawn", registry=registry)
        self._disputes = Gauge("evergreen_disputes_open", "Disputes that nobody has settled", registry=registry)
        self._success = Gauge(
            "evergreen_retrain_controller_last_success_timestamp_seconds",
            "Last successful decision cycle",
            registry=registry,
        )
        self.releases = ReleaseMetrics(registry)
        for step in STEPS:
            self._step_failures.labels(step)

    def decided(self, verdict: str, reason: str) -> None:
        """Count a stored decision."""
        self._decisions.labels(verdict, reason).inc()

    def cycle_done(self, at_s: float, *, waiting: Mapping[str, int], is_running: bool, spent_ratio: float) -> None:
        """Record a decision cycle that succeeded at `at_s` (seconds of the epoch)."""
        self._waiting.clear()
        for reason, count in waiting.items():
            self._waiting.labels(reason).set(count)
        self._running.set(is_running)
        self._spent.set(spent_ratio)
        self._success.set(at_s)

    def set_decision(self, version: int | None, decided: Decided | None) -> None:
        """Export what was decided on the champion's alerts, None for nothing; a scrape never misses an unchanged decision."""
        said = None
        if version is not None and decided is not None:
            said = (str(version), decided.state, decided.text, decided.next_step, decided.command)
            self._decision.labels(*said).set(1)
        if self._said not in (None, said):
            self._decision.remove(*self._said)
        self._said = said

    def claimed(self, version: int | None) -> None:
        """Begin to count the ends of this champion's retrains at 0, so that the first is an increase."""
        for step in STEPS:
            for state in get_args(FinalState):
                self._ended.labels(_label(version), state, step)

    def step_done(self, step: str, seconds: float) -> None:
        """Record a step that succeeded."""
        self._step_seconds.labels(step).observe(seconds)

    def step_failed(self, step: str) -> None:
        """Count a failed attempt at a step."""
        self._step_failures.labels(step).inc()

    def ended(self, version: int | None, state: str, step: str) -> None:
        """Count an ended retrain of this champion."""
        self._ended.labels(_label(version), state, step).inc()

    def failed(self, part: str) -> None:
        """Count a fault that the controller survived."""
        self._failures.labels(part).inc()

    def set_labels(self, withdrawn: int, open_disputes: int) -> None:
        """Set the number of withdrawn labels and of open disputes."""
        self._withdrawn.set(withdrawn)
        self._disputes.set(open_disputes)

    def orphans_closed(self, orphans: int) -> None:
        """Count MLflow runs that were closed because their owner had died."""
        self._orphans.inc(orphans)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)


def _label(version: int | None) -> str:
    return "" if version is None else str(version)
