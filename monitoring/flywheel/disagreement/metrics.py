"""Gauges of the newest measured disagreements, for the registry of the process that exports them. Reads no database."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge

from monitoring.flywheel.disagreement.store import DisagreementMeasurement

PAIR = ["version", "other"]


class DisagreementMetrics:
    """Gauges for each second model; none before the first measurement."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._share = Gauge(
            "evergreen_disagreement_ratio",
            "Share of texts on which champion and second model differ, beyond repeats and reference, -1 to 1",
            [*PAIR, "bound"],
            registry=registry,
        )
        self._texts = Gauge(
            "evergreen_disagreement_texts", "Texts compared, and those of each kind", [*PAIR, "kind"], registry=registry
        )
        self._measured = Gauge(
            "evergreen_disagreement_measured_timestamp_seconds", "Time of the measurement", PAIR, registry=registry
        )
        self._exported: set[tuple[Gauge, tuple[str, ...]]] = set()

    def set(self, measurements: Iterable[DisagreementMeasurement]) -> None:
        """Export these measurements, and remove those of other versions and second models."""
        values = {
            (gauge, (str(row.version), row.other, *labels)): value
            for row in measurements
            for gauge, labels, value in self._values(row)
        }
        for (gauge, labels), value in values.items():
            gauge.labels(*labels).set(value)
        for gauge, labels in self._exported - values.keys():
            gauge.remove(*labels)
        self._exported = set(values)

    def _values(self, row: DisagreementMeasurement) -> list[tuple[Gauge, tuple[str, ...], float]]:
        bounds = {"estimate": row.share, "lower": row.lower, "upper": row.upper}
        kinds = {
            "compared": row.compared, "label": row.differing, "gap": row.gaps, "slower": row.slower, "failed": row.failed
        }  # fmt: skip
        return [
            *((self._share, (bound,), value) for bound, value in bounds.items()),
            *((self._texts, (kind,), float(texts)) for kind, texts in kinds.items()),
            (self._measured, (), row.measured_at),
        ]
