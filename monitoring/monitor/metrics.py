"""The monitor's Prometheus metrics, defined here but for those of the flywheel. Base units; natural logarithms.

An unknown value is absent, never 0, so that "not yet" is not mistaken for "no drift". A gauge keeps its last value until
`remove_version` removes a version's gauges.
"""

from collections.abc import Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from monitoring.flywheel.disagreement.metrics import DisagreementMetrics
from serving.processes.http_refusals import refusal_counter

Bound = Literal["estimate", "lower", "upper"]
BOUNDS: tuple[Bound, ...] = ("estimate", "lower", "upper")
SIGNALS = (
    "input_length",
    "input_pieces_per_word",
    "input_novelty",
    "input_sketch",
    "prediction_labels",
    "prediction_confidence",
    "prediction_softmax",
    "error",
)
CYCLE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class MonitorMetrics:
    """The metrics of one monitor, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.count_refusal = refusal_counter(self.registry)
        self.disagreement = DisagreementMetrics(self.registry)
        self._version_gauges: list[Gauge] = []
        self._statistic = self._version_gauge("drift_statistic", "Statistic of a signal in the current window", "signal")
        self._log_e = self._version_gauge("drift_log_e", "Log e-value of the sequential test on a signal", "signal")
        self._effect = self._version_gauge("drift_effect_size", "Effect size of a signal in the current window", "signal")
        self._statistic_threshold = self._version_gauge(
            "drift_statistic_threshold", "Threshold of a signal's window statistic", "signal"
        )
        self._psi = self._version_gauge(
            "monitor_psi", "Population stability index of a signal in the last full window, in nats; no alert uses it", "signal"
        )
        self._jensen_shannon = self._version_gauge(
            "monitor_jensen_shannon",
            "Jensen-Shannon distance of a signal in the last full window, 0 to 1; no alert uses it",
            "signal",
        )
        self._share = self._version_gauge("drift_estimated_share", "Estimated share of traffic unlike the reference, 0 to 1")
        self._fill = self._version_gauge(
            "window_fill_ratio", "Rows in the open window, or in the one before it, over rows wanted"
        )
        self._window_rows = self._version_gauge("window_rows", "Rows in the open window")
        self._age = self._version_gauge("reference_age_seconds", "Time since the reference was recorded")
        self._reference_rows = self._version_gauge("reference_rows", "Rows of the reference")
        self._estimate = self._version_gauge("accuracy_estimate_ratio", "Accuracy estimated without labels", "bound")
        self._labelled = self._version_gauge("accuracy_labelled_ratio", "Accuracy by feedback", "bound")
        self._labels = self._version_gauge("accuracy_labels", "Labels from feedback that labelled accuracy is based on")
        self._reference = self._version_gauge("accuracy_reference_ratio", "Accuracy on the reference")
        self._harm = self._version_gauge(
            "harm_log_e", "Highest log e-value against accuracy being within the tolerated loss of the reference"
        )
        self._checked = self._version_gauge(
            "false_alarm_rate_checked_ratio", "False alarms on the A/A half over those promised", "signal"
        )
        self._log_e_threshold = self._signal_gauge("drift_log_e_threshold", "Threshold of a signal's log e-value")
        self._promised = self._signal_gauge("false_alarms_per_week", "False alarms per week that the threshold promises")
        self._version = self._late_gauge("monitored_version", "Version that is watched")
        self._success = self._late_gauge("monitor_last_success_timestamp_seconds", "Time of the monitor's last complete cycle")
        self._lag = self._late_gauge("monitor_lag_seconds", "Age of the oldest row that is not evaluated yet")
        self._skipped = Counter(
            "evergreen_monitor_segments_skipped_total", "Unreadable segments of the log", registry=self.registry
        )
        self._failures = Counter(
            "evergreen_monitor_failures_total", "Failed cycles, by the part that failed", ["part"], registry=self.registry
        )
        self._fetches = Counter(
            "evergreen_monitor_reference_fetches_total", "Attempts to fetch a reference", ["result"], registry=self.registry
        )
        self._rows = Counter("evergreen_monitor_rows_total", "Rows read", ["version", "role"], registry=self.registry)
        self._cycle = Histogram(
            "evergreen_monitor_cycle_seconds", "Duration of one cycle", buckets=CYCLE_SECONDS, registry=self.registry
        )

    def set_log_e(self, version: int, signal: str, *, log_e: float) -> None:
        """Set the log e-value of one signal."""
        self._log_e.labels(str(version), signal).set(log_e)

    def set_window_statistic(self, version: int, signal: str, *, statistic: float, threshold: float, effect_size: float) -> None:
        """Set one signal's results in a full window; an infinite threshold is never passed."""
        for gauge, value in ((self._statistic, statistic), (self._statistic_threshold, threshold), (self._effect, effect_size)):
            gauge.labels(str(version), signal).set(value)

    def set_histogram_distance(self, version: int, signal: str, *, psi: float, jensen_shannon: float) -> None:
        """Set one signal's PSI and Jensen-Shannon distance in a full window."""
        self._psi.labels(str(version), signal).set(psi)
        self._jensen_shannon.labels(str(version), signal).set(jensen_shannon)

    def set_unlike_reference_share(self, version: int, share: float) -> None:
        """Set the estimated share of traffic unlike the reference, 0 to 1."""
        self._share.labels(str(version)).set(share)

    def set_window(self, version: int, *, rows: int, wanted: int, fullest: float) -> None:
        """Set how full the open window is; `fullest` (0 to 1) includes the window before it, which was just emptied."""
        self._window_rows.labels(str(version)).set(rows)
        self._fill.labels(str(version)).set(max(rows / wanted, fullest))

    def set_reference(self, version: int, *, rows: int, age_s: float, accuracy: float) -> None:
        """Set the facts of the version's reference; accuracy 0 to 1."""
        self._reference_rows.labels(str(version)).set(rows)
        self._age.labels(str(version)).set(age_s)
        self._reference.labels(str(version)).set(accuracy)

    def set_estimated_accuracy(self, version: int, *, estimate: float, lower: float, upper: float) -> None:
        """Set the accuracy estimated without labels, with its bounds, 0 to 1."""
        for bound, value in zip(BOUNDS, (estimate, lower, upper), strict=True):
            self._estimate.labels(str(version), bound).set(value)

    def set_label_count(self, version: int, labels: int) -> None:
        """Set the number of labels from feedback."""
        self._labels.labels(str(version)).set(labels)

    def set_labelled_accuracy(self, version: int, *, estimate: float, lower: float, upper: float) -> None:
        """Set the accuracy by feedback, with its interval, 0 to 1."""
        for bound, value in zip(BOUNDS, (estimate, lower, upper), strict=True):
            self._labelled.labels(str(version), bound).set(value)

    def set_harm(self, version: int, log_e: float) -> None:
        """Set the highest log e-value against "accuracy is within the tolerated loss" since that was last proved."""
        self._harm.labels(str(version)).set(log_e)

    def set_promise(self, signal: str, *, log_e_threshold: float | None, false_alarms_per_week: float) -> None:
        """Set a signal's threshold and its promise; the signal `window` is all window statistics, and has no log e-value."""
        if log_e_threshold is not None:
            self._log_e_threshold.labels(signal).set(log_e_threshold)
        self._promised.labels(signal).set(false_alarms_per_week)

    def set_checked_rate(self, version: int, signal: str, ratio: float) -> None:
        """Set the false alarms realised on the A/A half of the reference over those promised."""
        self._checked.labels(str(version), signal).set(ratio)

    def set_watched_version(self, version: int) -> None:
        """Set the version that is watched from now on."""
        self._version.set(version)

    def cycle_succeeded(self, at_s: float, *, took_s: float, lag_s: float) -> None:
        """Record a complete cycle that ended at `at_s` (seconds since the epoch)."""
        self._success.set(at_s)
        self._lag.set(lag_s)
        self._cycle.observe(took_s)

    def cycle_failed(self, part: str) -> None:
        """Count a failed cycle under the part that failed."""
        self._failures.labels(part).inc()

    def rows_read(self, version: int, role: str, rows: int) -> None:
        """Count rows read from the log."""
        self._rows.labels(str(version), role).inc(rows)

    def segments_skipped(self, segments: int) -> None:
        """Count unreadable segments."""
        self._skipped.inc(segments)

    def reference_fetch(self, result: Literal["fetched", "failed"]) -> None:
        """Count an attempt to fetch a reference."""
        self._fetches.labels(result).inc()

    def remove_version(self, version: int) -> None:
        """Remove the gauges of a version that is no longer watched."""
        for gauge in self._version_gauges:
            for labels in list(_label_values(gauge)):
                if labels[0] == str(version):
                    gauge.remove(*labels)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)

    def _version_gauge(self, name: str, description: str, *labels: str) -> Gauge:
        gauge = Gauge(f"evergreen_{name}", description, ["version", *labels], registry=self.registry)
        self._version_gauges.append(gauge)
        return gauge

    def _signal_gauge(self, name: str, description: str) -> Gauge:
        return Gauge(f"evergreen_{name}", description, ["signal"], registry=self.registry)

    def _late_gauge(self, name: str, description: str) -> "LateGauge":
        return LateGauge(Gauge(f"evergreen_{name}", description, registry=None), self.registry)


class LateGauge:
    """A gauge without labels that is exported from its first value on; the library would export 0 before."""

    def __init__(self, gauge: Gauge, registry: CollectorRegistry) -> None:
        self._gauge, self._registry, self._is_registered = gauge, registry, False

    def set(self, value: float) -> None:
        self._gauge.set(value)
        if not self._is_registered:
            self._registry.register(self._gauge)
            self._is_registered = True


def _label_values(gauge: Gauge) -> Iterable[tuple[str, ...]]:
    """Return the label values of all exported samples of a gauge, in the order of its labels."""
    (family,) = gauge.collect()
    names = gauge._labelnames
    return (tuple(sample.labels[name] for name in names) for sample in family.samples)
