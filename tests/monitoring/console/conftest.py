"""A database of the test, and a Triton that answers every text alike."""

import pytest

from monitoring.console.try_it import neighbours
from tests.monitoring.console.test_try_it import HostileConnection


@pytest.fixture
def own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    monkeypatch.setattr(neighbours, "Connection", HostileConnection)
