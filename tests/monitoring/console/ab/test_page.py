"""A/B: the running test with its evidence and verdict, what is missing, hostile names, and the page in a browser."""

import asyncio
from pathlib import Path

import pytest

from monitoring.console.ab.interval_picture import picture_of
from monitoring.console.ab.page import AbLooks
from monitoring.pages.rendering import page_environment
from monitoring.pages.site import Site
from monitoring.release.ab.intervals import DifferenceInterval
from monitoring.release.ab.tests_table import end_test, keep_verdict
from pipeline.params import Params
from serving.release.routing import set_routing
from state.database import open_state
from tests.monitoring.console.console_client import console_client
from tests.monitoring.console.published import HOSTILE
from tests.monitoring.console.test_pages_in_browser import looks
from tests.monitoring.homes import Gateway
from tests.monitoring.inbox.browser import open_browser
from tests.monitoring.release.ab.ab_story import BEGAN, answered, begin, live, report

PRINTED = {"answer": "no difference", "sentence": f"no difference, {HOSTILE}", "at": BEGAN}


@pytest.fixture(autouse=True)
def sqlite_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)


def page(params: Params, home: Path) -> str:
    with console_client(params, home) as console:
        return console.page("/ab")


def test_without_a_test_the_page_says_how_to_start_one(params: Params, tmp_path: Path) -> None:
    assert ".venv/bin/evergreen ab start" in page(params, tmp_path)
    with open_state(tmp_path):
        pass
    assert ".venv/bin/evergreen ab start" in page(params, tmp_path)


def test_a_running_test_shows_arms_difference_and_verdict(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 2000, lambda version, number: float(number % 10 < 3 * version))
    shown = page(params, tmp_path)
    for part in (
        "test 1, running",
        "B is better.",
        "A is version 1, the champion; B is version 2.",
        'href="/model/2"',
        "2000 outcomes count",
        "with 95% at every look together",
        '<svg class="difference"',
        'aria-current="page">A/B',
    ):
        assert part in shown, part
    assert 'style="' not in shown
    assert 'data-refresh-ms="0"' not in shown


def test_with_few_units_there_is_no_picture_and_the_page_says_why(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 40, lambda _version, _number: 1.0)
    shown = page(params, tmp_path)
    assert "Not yet: too few units to say how many." in shown
    assert "each arm needs 50 units" in shown
    assert "<svg" not in shown


def test_what_does_not_count_and_a_changed_routing_are_said(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 100, lambda _version, _number: 1.0)
    with open_state(tmp_path) as engine, engine.begin() as connection:
        report(connection, [(answered(1).id, 1.0)])
        set_routing(connection, challenger_weight=0.1, shadow_share=0.0)
    shown = page(params, tmp_path)
    assert "1 do not count, because their answers are not in the prediction log" in shown
    assert 'role="alert"' in shown
    assert ".venv/bin/evergreen ab stop" in shown


def test_an_ended_test_keeps_its_first_verdict_and_is_listed_after_the_next_one(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 2000, lambda version, number: float(number % 10 < 3 * version), caller=HOSTILE[:60])
    with open_state(tmp_path) as engine, engine.begin() as connection:
        keep_verdict(connection, 1, PRINTED)
        end_test(connection, 1, PRINTED, BEGAN + 60)
    ended = page(params, tmp_path)
    with open_state(tmp_path) as engine, engine.begin() as connection:
        begin(connection)
    later = page(params, tmp_path)
    assert "The first verdict stands" in ended
    assert "test 1, ended" in ended
    assert "Earlier tests" not in ended
    assert "test 2, running" in later
    assert "1 against 2" in later
    for shown in (ended, later):
        assert "<script>alert" not in shown
        assert "\u202e" not in shown


def test_a_database_that_cannot_be_read_is_said(params: Params, tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database, but long enough to be looked at" * 50)
    assert "The test cannot be read" in page(params, tmp_path)


def test_a_look_serves_all_who_ask_within_some_seconds(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 100, lambda _version, _number: 1.0)
    now = BEGAN + 100
    site = Site(params, tmp_path, lambda: now, lambda _code: None, page_environment(tmp_path), ())
    shared = AbLooks(site)
    first = shared.read()
    late = answered(1, unit="late", at=BEGAN + 30)
    Gateway(tmp_path, "later").write([late])
    with open_state(tmp_path) as engine, engine.begin() as connection:
        report(connection, [(late.id, 1.0)])
    assert shared.read() is first
    now += 6
    second = shared.read()
    assert first.look is not None
    assert second.look is not None
    assert (first.look.units.outcomes, second.look.units.outcomes) == (100, 101)


def test_the_picture_holds_interval_and_margin_and_is_none_without_bounds() -> None:
    picture = picture_of(DifferenceInterval(0.01, -0.01, 0.03), 0.05)
    assert picture is not None
    assert 0 < picture.margin_low < picture.low < picture.estimate < picture.high < picture.margin_high < 100
    assert picture_of(DifferenceInterval(0.0, float("-inf"), float("inf")), 0.05) is None


def test_the_page_fits_a_phone_and_both_schemes_and_loads_without_a_violation(params: Params, tmp_path: Path) -> None:
    live(tmp_path, 600, lambda version, number: float(number % 10 < 3 * version))

    async def look(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/ab")
            await browser.wait_for("document.querySelector('#verdict') !== null")
            assert await browser.evaluate("document.querySelector('.difference .interval').getBoundingClientRect().width > 5")
            assert (
                await browser.evaluate("getComputedStyle(document.querySelector('.difference .interval')).fill") != "rgb(0, 0, 0)"
            )
            assert await browser.faint_texts() == {}
            await looks(browser)
            assert browser.errors == []

    with console_client(params, tmp_path) as console:
        asyncio.run(look(console.url))
