"""Ticks are round, ordered and few, on any range and in any time zone."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.charts.ticks import MAX_TIMES, format_value, time_ticks, value_ticks

ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")]


@given(
    st.floats(1_000_000_000, 2_000_000_000),
    st.sampled_from([3600, 21_600, 86_400, 604_800, 2_592_000, 7_776_000]),
    st.sampled_from(ZONES),
)
def test_moments_are_ordered_few_and_round_on_the_readers_clock(start: float, seconds: int, zone: ZoneInfo) -> None:
    ticks = time_ticks(start, start + seconds, zone)
    moments = [tick.at for tick in ticks]
    assert moments == sorted(set(moments))
    assert 2 <= len(ticks) <= MAX_TIMES + 1  # an hour more where the clock is put back
    assert all(start <= moment <= start + seconds for moment in moments)
    local = [datetime.fromtimestamp(moment, zone) for moment in moments]
    assert all(moment.second == 0 and moment.minute % 5 == 0 for moment in local)
    if seconds >= 604_800:
        assert all(moment.hour in (0, 1) for moment in local)  # 1: where the clock skips midnight


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.sampled_from(["", "s", "share", "per s"]))
def test_values_enclose_the_range_with_few_ticks(low: float, span: float, unit: str) -> None:
    ticks = value_ticks(low, low + span, unit)
    values = [tick.at for tick in ticks]
    slack = 1e-6 * max(span, 1e-3 * abs(low + span))
    assert values[0] <= low + slack and values[-1] >= low + span - slack
    assert values == sorted(set(values))
    assert 2 <= len(ticks) <= 7


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0421, "s", "42.1 ms"),
        (2.5, "s", "2.5 s"),
        (0.905, "share", "90.5 %"),
        (0.1, "per s", "0.1/s"),
        (0, "", "0"),
        (12345, "", "12,345"),
    ],
)
def test_a_value_has_its_unit_and_three_digits(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_midnight_shows_the_day() -> None:
    zone = ZoneInfo("Europe/Berlin")
    start = datetime(2026, 11, 29, 20, 30, tzinfo=zone).timestamp()
    assert [tick.text for tick in time_ticks(start, start + 6 * 3600, zone)] == [
        "21:00",
        "22:00",
        "23:00",
        "30 Nov",
        "01:00",
        "02:00",
    ]
