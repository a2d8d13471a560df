"""Candidates are timed in turns, and again only where noise could decide between them."""

from itertools import count

import pytest

from pipeline.params import Params, Session
from pipeline.session.timing import BASELINE, close_rivals, speedups_of, time_rivals, time_round

SLOW, FAST, FASTER = "packed-onnxruntime-fp32", "packed-openvino-bf16", "packed-openvino-int8"


@pytest.fixture
def settings(params: Params) -> Session:
    return params.session


class Candidates:
    """Calls that take the same seconds every time, and the order in which they were made."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.order = 0.0, list[str]()
        self.calls = {name: [lambda name=name, spent=spent: self.call(name, spent)] for name, spent in seconds.items()}

    def call(self, name: str, spent: float) -> None:
        self.order.append(name)
        self.now += spent

    def clock(self) -> float:
        return self.now


def rounds(settings: Session, refused: tuple[str, ...] = (), **seconds: float) -> dict[str, int]:
    """Return how often each candidate is timed."""
    candidates = Candidates(**seconds)
    timed = {name: [spent] for name, spent in time_round(candidates.calls, 0, candidates.clock).items()}
    time_rivals(candidates.calls, timed, refused, settings, candidates.clock)
    assert all(times == [pytest.approx([seconds[name]])] * len(times) for name, times in timed.items())
    return {name: len(times) for name, times in timed.items()}


def test_each_is_timed_once_a_round_and_another_one_first_each_time() -> None:
    ticks = count()
    candidates = Candidates(a=0, b=0, c=0)
    for turn in range(3):
        assert time_round(candidates.calls, turn, lambda: float(next(ticks))) == {"a": [1.0], "b": [1.0], "c": [1.0]}
    assert candidates.order == list("abcbcacab")


def test_the_batches_of_a_round_are_timed_in_turns_too() -> None:
    order: list[str] = []
    calls = {name: [lambda name=name, number=number: order.append(f"{name}{number}") for number in range(3)] for name in "ab"}
    time_round(calls, 0, lambda: 0.0)
    assert order == ["a0", "b0", "b1", "a1", "a2", "b2"]


def test_a_burst_of_other_work_changes_no_speed() -> None:
    """It meets a few batches, and long batches weigh no more than short ones."""
    seconds = {BASELINE: [[4.0, 8.0, 4.0, 4.0, 2.0]], FAST: [[2.0, 4.0, 2.0, 90.0, 1.0]]}
    assert speedups_of(seconds) == {BASELINE: 1.0, FAST: 2.0}


def test_a_clear_choice_is_timed_once(settings: Session) -> None:
    assert rounds(settings, **{BASELINE: 4, SLOW: 3, FAST: 1}) == {BASELINE: 1, SLOW: 1, FAST: 1}


def test_only_those_that_noise_could_exchange_are_timed_again(settings: Session) -> None:
    timed = rounds(settings, **{BASELINE: 4, SLOW: 3, FAST: 1.1, FASTER: 1})
    assert timed == {BASELINE: 1, SLOW: 1, FAST: settings.rounds, FASTER: settings.rounds}


def test_fp32_is_timed_again_where_the_fastest_is_hardly_faster(settings: Session) -> None:
    assert rounds(settings, **{BASELINE: 4, SLOW: 3.6}) == {BASELINE: settings.rounds, SLOW: settings.rounds}


def test_fp32_alone_is_no_choice(settings: Session) -> None:
    assert rounds(settings, **{BASELINE: 4, SLOW: 8}) == {BASELINE: 1, SLOW: 1}


def test_those_behind_a_refused_one_are_rivals(settings: Session) -> None:
    seconds = {BASELINE: 4.0, SLOW: 2.1, FAST: 2.0, FASTER: 1.0}
    assert rounds(settings, **seconds) == dict.fromkeys(seconds, 1)
    timed = rounds(settings, (FASTER,), **seconds)
    assert timed == {BASELINE: 1, SLOW: settings.rounds, FAST: settings.rounds, FASTER: 1}


def test_a_session_that_params_name_is_no_choice(settings: Session) -> None:
    named = settings.model_copy(update={"choice": FAST})
    assert close_rivals({BASELINE: [[4.0]], FAST: [[3.9]]}, (), named) == []
