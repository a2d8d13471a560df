"""The installed monitoring programs, the shipped alert settings, and a monitor with every metric set."""

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from monitoring.drift.histogram_distances import BINNED_SIGNALS
from monitoring.flywheel.disagreement.store import DisagreementMeasurement
from monitoring.local.tools import install_tools
from monitoring.monitor.metrics import SIGNALS, MonitorMetrics
from pipeline.errors import ToolError
from pipeline.params import Alerts, Params
from tests.conftest import ROOT
from tests.monitoring.homes import NOON

TOOLS = ROOT / ".tools"


@pytest.fixture(scope="session")
def tools() -> Path:
    """Return the folder of the programs; install them if `make` has not, and skip with the reason if that fails."""
    with FileLock(ROOT / ".tools.lock"):  # other workers wait
        if not (TOOLS / "ready").is_file():
            try:
                install_tools(TOOLS, print)
            except ToolError as error:
                pytest.skip(str(error))
    return TOOLS


@pytest.fixture(scope="session")
def alerts(params: Params) -> Alerts:
    """Return the shipped section."""
    return params.alerts


def measured_disagreement(version: int, **changed: Any) -> DisagreementMeasurement:
    """Return a measurement with the frozen control."""
    return DisagreementMeasurement(
        version, "control", NOON, NOON + 60, compared=1000, differing=280, repeated=1000, unstable=2, reference_rows=650,
        reference_differing=139, gaps=12, slower=0, failed=0, share=0.064, lower=0.022, upper=0.105, measured_at=NOON + 3600,
    )._replace(**changed)  # fmt: skip


def with_every_metric(metrics: MonitorMetrics, *, version: int = 3) -> MonitorMetrics:
    """Call every method once."""
    for signal in SIGNALS:
        metrics.set_log_e(version, signal, log_e=1.0)
        metrics.set_window_statistic(version, signal, statistic=0.2, threshold=0.3, effect_size=0.1)
        metrics.set_promise(signal, log_e_threshold=9.2, false_alarms_per_week=0.01)
        metrics.set_checked_rate(version, signal, 0.8)
    for signal in BINNED_SIGNALS:
        metrics.set_histogram_distance(version, signal, psi=0.08, jensen_shannon=0.1)
    metrics.set_unlike_reference_share(version, 0.05)
    metrics.set_window(version, rows=100, wanted=200, fullest=0.5)
    metrics.set_reference(version, rows=900, age_s=3600, accuracy=0.94)
    metrics.set_estimated_accuracy(version, estimate=0.93, lower=0.9, upper=0.95)
    metrics.set_label_count(version, 60)
    metrics.set_labelled_accuracy(version, estimate=0.92, lower=0.83, upper=0.97)
    metrics.set_harm(version, -0.5)
    metrics.set_watched_version(version)
    metrics.cycle_succeeded(1_700_000_000.0, took_s=0.2, lag_s=1.5)
    metrics.cycle_failed("database")
    metrics.rows_read(version, "champion", 100)
    metrics.segments_skipped(1)
    metrics.reference_fetch("failed")
    metrics.disagreement.set([measured_disagreement(version)])
    return metrics
