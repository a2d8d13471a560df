"""What the monitor exports: all of it known to promtool, nothing before it is known, nothing of a version that has gone."""

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.local.tools import find_tool
from monitoring.monitor.metrics import SIGNALS, Exporter
from tests.monitoring.conftest import TOOLS, all_told

TOLD = """
drift_statistic drift_statistic_threshold drift_log_e drift_log_e_threshold drift_effect_size drift_estimated_share
window_fill_ratio window_rows reference_age_seconds reference_rows accuracy_estimate_ratio accuracy_labelled_ratio
accuracy_labels accuracy_reference_ratio harm_log_e false_alarms_per_week false_alarm_rate_checked_ratio
monitored_version monitor_last_success_timestamp_seconds monitor_segments_skipped_total monitor_rows_total
monitor_lag_seconds monitor_failures_total monitor_cycle_seconds_bucket
"""


def names(exporter: Exporter) -> set[str]:
    """Names of samples of ours, without those of the process."""
    families = text_string_to_metric_families(exporter.text().decode())
    return {sample.name for family in families for sample in family.samples if sample.name.startswith("evergreen_")}


@pytest.mark.usefixtures("tools")
def test_promtool_finds_nothing_to_improve() -> None:
    text = all_told(Exporter()).text()
    done = subprocess.run([str(find_tool(TOOLS, "promtool")), "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nothing_is_said_before_it_is_known() -> None:
    said = {name for name in names(Exporter()) if not name.startswith("evergreen_monitor_cycle_seconds")}
    assert said <= {"evergreen_monitor_segments_skipped_total", "evergreen_monitor_segments_skipped_created"}


def test_every_fact_that_the_plan_names_is_exported() -> None:
    said = names(all_told(Exporter()))
    for name in TOLD.split():
        assert f"evergreen_{name}" in said


def test_of_a_version_that_is_no_longer_watched_nothing_is_said() -> None:
    exporter = Exporter()
    all_told(exporter, version=3)
    all_told(exporter, version=4)
    exporter.forget(3)
    families = text_string_to_metric_families(exporter.text().decode())
    gauges = [sample for family in families if family.type == "gauge" for sample in family.samples]
    versions = [sample.labels["version"] for sample in gauges if "version" in sample.labels and "_created" not in sample.name]
    assert set(versions) == {"4"}
    assert len(versions) == 5 * len(SIGNALS) + 6 + 8


def test_a_window_says_how_full_it_is() -> None:
    exporter = Exporter()
    exporter.window(2, rows=150, wanted=200, fullest=0.75)
    assert exporter.registry.get_sample_value("evergreen_window_fill_ratio", {"version": "2"}) == 0.75


def test_a_window_that_was_just_judged_and_emptied_still_says_that_it_was_full() -> None:
    exporter = Exporter()
    exporter.window(2, rows=3, wanted=200, fullest=1.0)
    assert exporter.registry.get_sample_value("evergreen_window_fill_ratio", {"version": "2"}) == 1.0
    assert exporter.registry.get_sample_value("evergreen_window_rows", {"version": "2"}) == 3
