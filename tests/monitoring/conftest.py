"""The real programs, the params as shipped, and a monitor that has told all it knows."""

from pathlib import Path

import pytest

from monitoring.local.tools import install_tools
from monitoring.monitor.metrics import SIGNALS, Exporter
from pipeline.errors import ToolError
from pipeline.params import Alerts, Params
from tests.conftest import ROOT

TOOLS = ROOT / ".tools"


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of the programs; brought when `make` has not been here, and skipped with the reason where that fails."""
    if not (TOOLS / "ready").is_file():
        try:
            install_tools(TOOLS, print)
        except ToolError as error:
            pytest.skip(str(error))
    return TOOLS


@pytest.fixture(scope="session")
def alerts(params: Params) -> Alerts:
    """The shipped section."""
    return params.alerts


def all_told(exporter: Exporter, *, version: int = 3) -> Exporter:
    """Every method called once."""
    for signal in SIGNALS:
        exporter.drift(version, signal, log_e=1.0)
        exporter.window_statistic(version, signal, statistic=0.2, threshold=0.3, effect_size=0.1)
        exporter.promise(signal, log_e_threshold=9.2, false_alarms_per_week=0.01)
        exporter.checked(version, signal, 0.8)
    exporter.unlike_share(version, 0.05)
    exporter.window(version, rows=100, wanted=200, fullest=0.5)
    exporter.reference(version, rows=900, age_s=3600, accuracy=0.94)
    exporter.accuracy_estimated(version, estimate=0.93, lower=0.9, upper=0.95)
    exporter.labels(version, 60)
    exporter.accuracy_labelled(version, estimate=0.92, lower=0.83, upper=0.97)
    exporter.harm(version, -0.5)
    exporter.watched(version)
    exporter.succeeded(1_700_000_000.0, took_s=0.2, lag_s=1.5)
    exporter.read(version, "champion", 100)
    exporter.skipped(1)
    exporter.failed("database")
    exporter.reference_asked("failed")
    return exporter
