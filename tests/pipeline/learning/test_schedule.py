"""The learning rate over a run: hand values and shape."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.learning.schedule import warmup_cosine

RUNS = st.tuples(st.integers(1, 5000), st.floats(0, 0.99))


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (13, 0.5 * (1 + sqrt(0.5))), (22, 0.5), (40, 0.0)],
)
def test_it_climbs_in_a_line_and_falls_along_half_a_cosine(step: int, factor: float) -> None:
    assert warmup_cosine(step, 40, 0.1) == pytest.approx(factor, abs=1e-12)


def test_without_a_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert warmup_cosine(0, 10, 0.0) == 1.0


@given(RUNS)
def test_it_stays_in_bounds_rises_then_never_rises_again(run: tuple[int, float]) -> None:
    total, share = run
    factors = [warmup_cosine(step, total, share) for step in range(total + 1)]
    peak = factors.index(max(factors))
    assert max(factors) == 1.0
    assert min(factors) >= 0.0
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@given(RUNS)
def test_the_first_step_already_learns(run: tuple[int, float]) -> None:
    assert warmup_cosine(0, *run) > 0
