"""What the monitor tells Prometheus: every metric of the process, in one place. Base units; natural logarithms.

A fact that is not known is absent, never 0: nobody mistakes "not yet" for "no drift". What is not given again stays as it was
said last, until `forget` takes a version's facts away.
"""

import os
from collections.abc import Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from pipeline.params import Alerts

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


def address(alerts: Alerts) -> tuple[str, int]:
    """Where the monitor listens: host and port of params, or the host that `EVERGREEN_MONITOR_HOST` names."""
    return os.environ.get("EVERGREEN_MONITOR_HOST", alerts.host), alerts.monitor_port


class Exporter:
    """The metrics of one monitor on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._of_versions: list[Gauge] = []
        self._statistic = self._of_version("drift_statistic", "Statistic of a signal in the current window", "signal")
        self._log_e = self._of_version("drift_log_e", "Log e-value of the sequential test on a signal", "signal")
        self._effect = self._of_version("drift_effect_size", "Effect size of a signal in the current window", "signal")
        self._window_threshold = self._of_version(
            "drift_statistic_threshold", "What the statistic of a window is held against", "signal"
        )
        self._share = self._of_version("drift_estimated_share", "Estimated share of traffic unlike the reference, 0 to 1")
        self._fill = self._of_version("window_fill_ratio", "Rows in the open window, or in the one before it, over rows wanted")
        self._window_rows = self._of_version("window_rows", "Rows in the open window")
        self._age = self._of_version("reference_age_seconds", "Since the reference was recorded")
        self._reference_rows = self._of_version("reference_rows", "Rows of the reference")
        self._estimate = self._of_version("accuracy_estimate_ratio", "Accuracy estimated without labels", "bound")
        self._labelled = self._of_version("accuracy_labelled_ratio", "Accuracy by feedback", "bound")
        self._labels = self._of_version("accuracy_labels", "Labels of feedback that labelled accuracy rests on")
        self._reference = self._of_version("accuracy_reference_ratio", "Accuracy on the reference")
        self._harm = self._of_version("harm_log_e", "Highest log e-value of accuracy having fallen by more than is tolerated")
        self._checked = self._of_version(
            "false_alarm_rate_checked_ratio", "False alarms on the A/A half over those promised", "signal"
        )
        self._threshold = self._of_signal("drift_log_e_threshold", "What the log e-value of a signal is held against")
        self._promised = self._of_signal("false_alarms_per_week", "False alarms a week that the threshold promises")
        self._version = self._later("monitored_version", "The version that is watched")
        self._success = self._later("monitor_last_success_timestamp_seconds", "When a cycle of the monitor last succeeded")
        self._lag = self._later("monitor_lag_seconds", "Age of the oldest row that is not judged yet")
        self._skipped = Counter(
            "evergreen_monitor_segments_skipped_total", "Segments of the log that could not be read", registry=self.registry
        )
        self._failures = Counter(
            "evergreen_monitor_failures_total", "Cycles that could not be ended, by what failed", ["part"], registry=self.registry
        )
        self._asked = Counter(
            "evergreen_monitor_reference_fetches_total", "Attempts to fetch a reference", ["result"], registry=self.registry
        )
        self._rows = Counter("evergreen_monitor_rows_total", "Rows read", ["version", "role"], registry=self.registry)
        self._cycle = Histogram(
            "evergreen_monitor_cycle_seconds", "One cycle of the monitor", buckets=CYCLE_SECONDS, registry=self.registry
        )

    def drift(self, version: int, signal: str, *, log_e: float) -> None:
        """The evidence on one signal."""
        self._log_e.labels(str(version), signal).set(log_e)

    def window_statistic(self, version: int, signal: str, *, statistic: float, threshold: float, effect_size: float) -> None:
        """One signal in a window that was full; an infinite threshold is never passed."""
        for gauge, value in ((self._statistic, statistic), (self._window_threshold, threshold), (self._effect, effect_size)):
            gauge.labels(str(version), signal).set(value)

    def unlike_share(self, version: int, share: float) -> None:
        """Estimated share of traffic unlike the reference, 0 to 1."""
        self._share.labels(str(version)).set(share)

    def window(self, version: int, *, rows: int, wanted: int, fullest: float) -> None:
        """How full the open window is; `fullest` (0 to 1) also knows the one before it, which was emptied when it was judged."""
        self._window_rows.labels(str(version)).set(rows)
        self._fill.labels(str(version)).set(max(rows / wanted, fullest))

    def reference(self, version: int, *, rows: int, age_s: float, accuracy: float) -> None:
        """The reference that the version is held against; accuracy 0 to 1."""
        self._reference_rows.labels(str(version)).set(rows)
        self._age.labels(str(version)).set(age_s)
        self._reference.labels(str(version)).set(accuracy)

    def accuracy_estimated(self, version: int, *, estimate: float, lower: float, upper: float) -> None:
        """Accuracy estimated without labels, with its bounds, 0 to 1."""
        for bound, value in zip(BOUNDS, (estimate, lower, upper), strict=True):
            self._estimate.labels(str(version), bound).set(value)

    def labels(self, version: int, labels: int) -> None:
        """How many labels of feedback there are."""
        self._labels.labels(str(version)).set(labels)

    def accuracy_labelled(self, version: int, *, estimate: float, lower: float, upper: float) -> None:
        """Accuracy by feedback, with its interval, 0 to 1."""
        for bound, value in zip(BOUNDS, (estimate, lower, upper), strict=True):
            self._labelled.labels(str(version), bound).set(value)

    def harm(self, version: int, log_e: float) -> None:
        """Log e-value of "accuracy has fallen by more than the tolerated loss", the highest since that was last disproved."""
        self._harm.labels(str(version)).set(log_e)

    def promise(self, signal: str, *, log_e_threshold: float | None, false_alarms_per_week: float) -> None:
        """What a signal is held against, and what that promises; `window` stands for all window statistics, without log e."""
        if log_e_threshold is not None:
            self._threshold.labels(signal).set(log_e_threshold)
        self._promised.labels(signal).set(false_alarms_per_week)

    def checked(self, version: int, signal: str, ratio: float) -> None:
        """False alarms realised on the A/A half of the reference over those promised."""
        self._checked.labels(str(version), signal).set(ratio)

    def watched(self, version: int) -> None:
        """The version that is watched from now on."""
        self._version.set(version)

    def succeeded(self, at_s: float, *, took_s: float, lag_s: float) -> None:
        """A cycle ended well at `at_s` (seconds of the epoch)."""
        self._success.set(at_s)
        self._lag.set(lag_s)
        self._cycle.observe(took_s)

    def read(self, version: int, role: str, rows: int) -> None:
        """So many more rows were read."""
        self._rows.labels(str(version), role).inc(rows)

    def skipped(self, segments: int) -> None:
        """So many more segments could not be read."""
        self._skipped.inc(segments)

    def failed(self, part: str) -> None:
        """A cycle could not be ended, because of one of a few parts."""
        self._failures.labels(part).inc()

    def reference_asked(self, result: Literal["fetched", "failed"]) -> None:
        """The store was asked for a reference."""
        self._asked.labels(result).inc()

    def forget(self, version: int) -> None:
        """A version is no longer watched: what was said of it is no longer said."""
        for gauge in self._of_versions:
            for labels in list(_label_values(gauge)):
                if labels[0] == str(version):
                    gauge.remove(*labels)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _of_version(self, name: str, what: str, *more: str) -> Gauge:
        gauge = Gauge(f"evergreen_{name}", what, ["version", *more], registry=self.registry)
        self._of_versions.append(gauge)
        return gauge

    def _of_signal(self, name: str, what: str) -> Gauge:
        return Gauge(f"evergreen_{name}", what, ["signal"], registry=self.registry)

    def _later(self, name: str, what: str) -> "Later":
        return Later(Gauge(f"evergreen_{name}", what, registry=None), self.registry)


class Later:
    """A gauge without labels that is exported from its first value on; the library would start with 0."""

    def __init__(self, gauge: Gauge, registry: CollectorRegistry) -> None:
        self._gauge, self._registry, self._is_known = gauge, registry, False

    def set(self, value: float) -> None:
        self._gauge.set(value)
        if not self._is_known:
            self._registry.register(self._gauge)
            self._is_known = True


def _label_values(gauge: Gauge) -> Iterable[tuple[str, ...]]:
    """The label values of all that a gauge exports now, in the order of its labels."""
    (family,) = gauge.collect()
    names = gauge._labelnames
    return (tuple(sample.labels[name] for name in names) for sample in family.samples)
