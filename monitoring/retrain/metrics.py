"""What the receiver and the controller tell Prometheus: every metric of both processes, in one place."""

from collections.abc import Callable, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from monitoring.retrain.journal import STEPS, Ending

TEXT = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STEP_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)


class ReceiverMetrics:
    """Of one receiver, on a registry of its own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Histogram(
            "evergreen_retrain_webhook_seconds",
            "From the head of a webhook to its answer",
            ["code"],
            buckets=SECONDS,
            registry=registry,
        )
        self._heard = Counter("evergreen_retrain_alerts_total", "Alerts heard", ["kind"], registry=registry)
        self._truncated = Counter("evergreen_retrain_alerts_truncated_total", "Alerts Alertmanager cut off", registry=registry)
        self._refused = Counter("evergreen_retrain_webhooks_refused_total", "Webhooks not taken", ["reason"], registry=registry)
        self._failures = Counter("evergreen_retrain_receiver_failures_total", "Commits that failed", registry=registry)
        queue = Gauge("evergreen_retrain_webhooks_waiting", "Webhooks that wait for a commit", registry=registry)
        queue.set_function(waiting)

    def took(self, code: int, seconds: float) -> None:
        """A webhook was answered."""
        self._requests.labels(str(code)).observe(seconds)

    def heard(self, new: int, known: int) -> None:
        """What came; a webhook that was sent before counts as one known alert."""
        self._heard.labels("new").inc(new)
        self._heard.labels("known").inc(known)

    def truncated(self, alerts: int) -> None:
        """So many alerts Alertmanager says it has cut off."""
        self._truncated.inc(alerts)

    def refused(self, reason: str) -> None:
        """A webhook was not taken."""
        self._refused.labels(reason).inc()

    def failed(self) -> None:
        """A commit failed."""
        self._failures.inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class ControllerMetrics:
    """Of one controller, on a registry of its own. Counters stand at 0 from the start, so that a first failure is an increase."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._decisions = Counter("evergreen_retrain_decisions_total", "Decisions", ["verdict", "reason"], registry=registry)
        self._ended = Counter("evergreen_retrain_ended_total", "Retrains that ended", ["state", "step"], registry=registry)
        self._step_failures = Counter(
            "evergreen_retrain_step_failures_total", "Attempts that failed", ["step"], registry=registry
        )
        self._step_seconds = Histogram(
            "evergreen_retrain_step_seconds", "Steps that were done", ["step"], buckets=STEP_SECONDS, registry=registry
        )
        self._failures = Counter("evergreen_retrain_controller_failures_total", "Faults survived", ["part"], registry=registry)
        self._orphans = Counter("evergreen_retrain_orphans_closed_total", "MLflow runs whose owner had died", registry=registry)
        self._waiting = Gauge(
            "evergreen_retrain_waiting_alerts", "Alerts that wait for a decision", ["reason"], registry=registry
        )
        self._running = Gauge("evergreen_retrain_running", "1 while a retrain is at work", registry=registry)
        self._spent = Gauge("evergreen_retrain_budget_spent_ratio", "Of a day's compute", registry=registry)
        self._success = Gauge(
            "evergreen_retrain_controller_last_success_timestamp_seconds", "When the controller last looked", registry=registry
        )
        for step in STEPS:
            self._step_failures.labels(step)
            for state in get_args(Ending):
                self._ended.labels(state, step)

    def decided(self, verdict: str, reason: str) -> None:
        """A decision was written down."""
        self._decisions.labels(verdict, reason).inc()

    def looked(self, at_s: float, *, waiting: Mapping[str, int], is_running: bool, spent_ratio: float) -> None:
        """A look ended well at `at_s` (seconds of the epoch)."""
        self._waiting.clear()
        for reason, count in waiting.items():
            self._waiting.labels(reason).set(count)
        self._running.set(is_running)
        self._spent.set(spent_ratio)
        self._success.set(at_s)

    def stepped(self, step: str, took_s: float) -> None:
        """A step was done."""
        self._step_seconds.labels(step).observe(took_s)

    def step_failed(self, step: str) -> None:
        """An attempt at a step failed."""
        self._step_failures.labels(step).inc()

    def ended(self, state: str, step: str) -> None:
        """A retrain is over."""
        self._ended.labels(state, step).inc()

    def failed(self, part: str) -> None:
        """A fault was survived."""
        self._failures.labels(part).inc()

    def closed(self, orphans: int) -> None:
        """So many runs of MLflow were closed."""
        self._orphans.inc(orphans)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
