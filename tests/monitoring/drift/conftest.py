"""Give the settings of a small monitor to the tests of drift."""

import pytest

from pipeline.params import Monitor, Params
from tests.monitoring.worlds import settings


@pytest.fixture(scope="session")
def monitor_settings(params: Params) -> Monitor:
    return settings(params.monitor)
