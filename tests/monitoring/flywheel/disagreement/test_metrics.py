"""The gauges are those of the newest measurements, and no others."""

from prometheus_client import CollectorRegistry, generate_latest

from monitoring.flywheel.disagreement.metrics import DisagreementMetrics
from tests.monitoring.conftest import measured_disagreement


def exported(registry: CollectorRegistry) -> dict[str, float]:
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_each_second_model_has_a_share_with_bounds_and_texts_by_kind() -> None:
    registry = CollectorRegistry()
    DisagreementMetrics(registry).set([measured_disagreement(3), measured_disagreement(3, other="4", failed=7)])
    values = exported(registry)
    assert values['evergreen_disagreement_ratio{bound="lower",other="control",version="3"}'] == 0.022
    assert values['evergreen_disagreement_ratio{bound="upper",other="4",version="3"}'] == 0.105
    assert values['evergreen_disagreement_texts{kind="label",other="control",version="3"}'] == 280
    assert values['evergreen_disagreement_texts{kind="failed",other="4",version="3"}'] == 7
    assert len(values) == 2 * (3 + 5 + 1)


def test_gauges_of_another_version_are_removed() -> None:
    registry = CollectorRegistry()
    metrics = DisagreementMetrics(registry)
    assert exported(registry) == {}
    metrics.set([measured_disagreement(3)])
    metrics.set([measured_disagreement(4)])
    assert {name for name in exported(registry) if 'version="4"' not in name} == set()
    metrics.set([])
    assert exported(registry) == {}
