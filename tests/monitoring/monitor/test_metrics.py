"""The monitor's metrics: valid for promtool, absent until known, removed with their version."""

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.drift.histogram_distances import BINNED_SIGNALS
from monitoring.local.tools import find_tool
from monitoring.monitor.metrics import SIGNALS, MonitorMetrics
from tests.monitoring.conftest import TOOLS, with_every_metric

EXPORTED = """
drift_statistic drift_statistic_threshold drift_log_e drift_log_e_threshold drift_effect_size drift_estimated_share
window_fill_ratio window_rows reference_age_seconds reference_rows accuracy_estimate_ratio accuracy_labelled_ratio
accuracy_labels accuracy_reference_ratio harm_log_e false_alarms_per_week false_alarm_rate_checked_ratio
monitored_version monitor_last_success_timestamp_seconds monitor_segments_skipped_total monitor_rows_total
monitor_lag_seconds monitor_failures_total monitor_cycle_seconds_bucket monitor_psi monitor_jensen_shannon
"""


def names(metrics: MonitorMetrics) -> set[str]:
    """Return the names of our samples, without those of the process."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name for family in families for sample in family.samples if sample.name.startswith("evergreen_")}


@pytest.mark.usefixtures("tools")
def test_promtool_finds_nothing_to_improve() -> None:
    text = with_every_metric(MonitorMetrics()).text()
    done = subprocess.run([str(find_tool(TOOLS, "promtool")), "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_no_value_is_exported_before_it_is_known() -> None:
    exported = {name for name in names(MonitorMetrics()) if not name.startswith("evergreen_monitor_cycle_seconds")}
    assert exported <= {"evergreen_monitor_segments_skipped_total", "evergreen_monitor_segments_skipped_created"}


def test_every_metric_of_the_plan_is_exported() -> None:
    exported = names(with_every_metric(MonitorMetrics()))
    for name in EXPORTED.split():
        assert f"evergreen_{name}" in exported


def test_a_version_that_is_no_longer_watched_has_no_gauges() -> None:
    metrics = MonitorMetrics()
    with_every_metric(metrics, version=3)
    with_every_metric(metrics, version=4)
    metrics.remove_version(3)
    families = text_string_to_metric_families(metrics.text().decode())
    gauges = [sample for family in families if family.type == "gauge" for sample in family.samples]
    versions = [sample.labels["version"] for sample in gauges if "version" in sample.labels and "_created" not in sample.name]
    assert set(versions) == {"4"}
    assert (
        len(versions) == 5 * len(SIGNALS) + 2 * len(BINNED_SIGNALS) + 6 + 8 + 9
    )  # of disagreement: three shares, five counts, a time


def test_a_window_reports_how_full_it_is() -> None:
    metrics = MonitorMetrics()
    metrics.set_window(2, rows=150, wanted=200, fullest=0.75)
    assert metrics.registry.get_sample_value("evergreen_window_fill_ratio", {"version": "2"}) == 0.75


def test_a_window_that_was_just_evaluated_and_emptied_still_counts_as_full() -> None:
    metrics = MonitorMetrics()
    metrics.set_window(2, rows=3, wanted=200, fullest=1.0)
    assert metrics.registry.get_sample_value("evergreen_window_fill_ratio", {"version": "2"}) == 1.0
    assert metrics.registry.get_sample_value("evergreen_window_rows", {"version": "2"}) == 3
