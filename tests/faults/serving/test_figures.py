"""Check the figures of the drills against values computed by hand."""

from math import inf, nan

import numpy as np
import pytest

from serving.loadtest.sender import LOST, REFUSED, TIMEOUT
from tests.faults.memory import Sample, median_between, slope
from tests.faults.open_load import wrong_answers
from tests.faults.serving import killed, overload, swaps
from tests.faults.stack import OfflineAnswers
from tests.faults.traffic import Traffic


def traffic_of(status: list[int], took_ms: list[float] | None = None, per_s: float = 10.0) -> Traffic:
    """Return requests at equal intervals; the first is at second 100 of the clock."""
    at_s = 100.0 + np.arange(len(status)) / per_s
    took = np.array(took_ms or [10.0] * len(status), dtype=np.float32)
    return Traffic(at_s, np.array(status, dtype=np.int16), took, np.zeros(len(status), dtype=np.float32), 0, [], 100.0)


def answers_with(label: str, confidence: float) -> list[tuple[str, int, str]]:
    return [("the kettle leaks", 2, f"{label} {confidence}")]


def test_an_answer_is_wrong_when_another_version_would_have_given_it() -> None:
    answers = {
        2: OfflineAnswers(["damaged", "return"], np.array([[0.80, 0.20]])),
        1: OfflineAnswers(["damaged", "return"], np.array([[0.95, 0.05]])),
    }

    def offline(version: int, texts: list[str]) -> OfflineAnswers:
        assert texts == ["the kettle leaks"]
        return answers[version]

    assert wrong_answers(answers_with("damaged", 0.805), offline, 0.01) == []
    assert len(wrong_answers(answers_with("damaged", 0.95), offline, 0.01)) == 1
    assert len(wrong_answers(answers_with("return", 0.20), offline, 0.01)) == 1
    assert len(wrong_answers(answers_with("unheard_of", 0.80), offline, 0.01)) == 1
    assert len(wrong_answers(answers_with("damaged", nan), offline, 0.01)) == 1


def test_of_two_classes_that_are_as_probable_either_is_right() -> None:
    tie = OfflineAnswers(["damaged", "return"], np.array([[0.505, 0.495]]))
    assert wrong_answers(answers_with("return", 0.497), lambda _version, _texts: tie, 0.01) == []
    assert len(wrong_answers(answers_with("return", 0.497), lambda _version, _texts: tie, 0.001)) == 1


def test_recovery_is_counted_to_the_first_whole_window_that_is_normal() -> None:
    slow = traffic_of([200] * 100, [900.0] * 30 + [10.0] * 70)  # 3 s slow, then quick
    assert overload.seconds_until_normal(slow, 100.0, 50.0) == pytest.approx(3.0)
    refused = traffic_of([503] * 45 + [200] * 55)
    assert overload.seconds_until_normal(refused, 100.0, 50.0) == pytest.approx(4.5)
    assert overload.seconds_until_normal(traffic_of([200] * 100), 100.0, 50.0) == 0
    assert overload.seconds_until_normal(traffic_of([503] * 100), 100.0, 50.0) == inf


def test_an_outage_lasts_from_the_kill_to_the_last_request_that_was_not_answered() -> None:
    kills = [killed.Kill("triton", 102.0, 1.0), killed.Kill("gateway", 106.0, 1.0)]
    sent = traffic_of([200] * 19 + [503] * 10 + [200] * 31 + [LOST, *[REFUSED] * 9] + [200] * 30)
    triton, gateway = killed.to_faults(kills, sent, on_the_way_s=0.5)
    assert triton.outage_s == pytest.approx(0.8)
    assert (triton.not_answered, triton.not_allowed) == ({"503": 10}, 0)
    assert gateway.outage_s == pytest.approx(0.9)
    assert (gateway.not_answered, gateway.not_allowed) == ({"no connection": 9, "connection lost": 1}, 0)


def test_a_server_that_fails_at_the_end_never_came_back_and_a_timeout_is_never_allowed() -> None:
    half = traffic_of([200, 503] * 40)
    (fault,) = killed.to_faults([killed.Kill("model", 102.0, inf)], half, on_the_way_s=0.5)
    assert fault.outage_s == inf
    (fault,) = killed.to_faults([killed.Kill("model", 102.0, 1.0)], half, on_the_way_s=0.5)
    assert fault.outage_s == inf
    (fault,) = killed.to_faults(
        [killed.Kill("gateway", 102.0, 1.0)], traffic_of([200] * 20 + [TIMEOUT] + [200] * 40), on_the_way_s=0.5
    )
    assert fault.not_allowed == 1


def test_swaps_are_cut_into_about_equal_blocks() -> None:
    assert swaps.block_sizes(1000) == [50] * 20
    assert swaps.block_sizes(32) == [7, 7, 6, 6, 6]
    assert swaps.block_sizes(3) == [3]
    assert swaps.block_sizes(1) == [1]


def test_a_block_is_compared_with_the_quiet_before_and_after_it() -> None:
    took_ms = [10.0] * 50 + [40.0] * 50 + [20.0] * 60
    blocks = [swaps.Block(105.0, 110.0, [{}] * 4)]
    assert swaps.ratios(blocks, traffic_of([200] * 160, took_ms)) == [(40.0, 20.0)]
    failing = traffic_of([200] * 60 + [503] + [200] * 99, took_ms)
    assert swaps.ratios(blocks, failing)[0][0] == inf


def test_growth_is_the_slope_of_the_second_half_of_the_quiet_stretches() -> None:
    blocks = [swaps.Block(110.0 + 20 * n, 120.0 + 20 * n, [{}] * 10) for n in range(4)]
    samples = [Sample(100.0 + n, 40.0 + max(0, n - 50), 0.0, 200.0, 2) for n in range(100)]  # MiB: one a second after 50 s
    levels = swaps.quiet_levels(blocks, traffic_of([200] * 1000), samples, "triton")
    assert levels[0] == 40.0
    assert swaps.growth_per_100_swaps(blocks, levels) == pytest.approx(200.0, rel=0.1)  # 20 s and 10 swaps from quiet to quiet
    assert swaps.growth_per_100_swaps(blocks, swaps.quiet_levels(blocks, traffic_of([200] * 1000), samples, "gateway")) == 0


def test_an_outlier_does_not_change_a_slope_and_a_single_point_has_none() -> None:
    assert slope([0, 1, 2, 3, 4, 5, 6], [1.0, 2.0, 90.0, 4.0, 5.0, 6.0, 7.0]) == pytest.approx(1.0)
    assert np.isnan(slope([0], [1.0]))
    assert np.isnan(median_between([], "triton", 0.0, 1.0))
