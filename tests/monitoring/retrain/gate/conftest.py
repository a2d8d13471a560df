"""Give the gate's settings to its tests."""

import pytest

from pipeline.params import Gate, Params


@pytest.fixture
def settings(params: Params) -> Gate:
    return params.gate
