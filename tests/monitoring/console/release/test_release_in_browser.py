"""The page Release in a real Chromium: paused by keyboard, readable in light and dark, on a phone; blind labels by keyboard."""

import asyncio
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.params import Params
from state.database import open_state
from state.tables import release_runs
from tests.monitoring.console.queue.queue_client import label_queue, labels_in_force
from tests.monitoring.console.release.stories import canary, count_answers, evidence_of, rolled_back
from tests.monitoring.console.releases import COPIED, write_release
from tests.monitoring.console.running_console import running_console
from tests.monitoring.console.test_browser import tab_to
from tests.monitoring.console.test_pages_in_browser import type_text
from tests.monitoring.inbox.browser import PHONE, Browser, open_browser
from tests.monitoring.release.rows import release_row

pytestmark = pytest.mark.usefixtures("own_database")
FITS = "document.documentElement.scrollWidth <= window.innerWidth"
BARS = "[...document.querySelectorAll('.evidence .span')].map((bar) => bar.getBoundingClientRect().width)"


def wish_of(home: Path) -> str:
    with open_state(home) as engine, engine.connect() as connection:
        return str(connection.execute(sa.select(release_runs.c.wish)).scalar_one())


def test_a_release_is_paused_goes_on_and_is_ended_by_keyboard_alone(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], **canary(params.release))

    async def press_button(browser: Browser, name: str) -> None:
        await tab_to(browser, f"matches('form[action=\"/release/{name}\"] button')")
        await browser.press("Enter")

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/release")
            await press_button(browser, "pause")
            await browser.wait_for(
                "document.querySelector('form[action=\"/release/resume\"]') && document.readyState === 'complete'"
            )
            assert wish_of(tmp_path) == "pause"
            await press_button(browser, "resume")
            await browser.wait_for(
                "document.querySelector('form[action=\"/release/pause\"]') && document.readyState === 'complete'"
            )
            assert wish_of(tmp_path) == "none"
            assert not await browser.evaluate("document.querySelector('.wishes details').open")  # a second thought before the end
            await tab_to(browser, "matches('.wishes summary')")
            await browser.press("Enter")
            await press_button(browser, "abort")
            await browser.wait_for("document.body.textContent.includes('A person has chosen to end this release')")
            assert browser.errors == []

    with running_console(params, tmp_path, now=None) as url:
        asyncio.run(work(url))
    assert wish_of(tmp_path) == "abort"


def test_the_page_follows_the_release_without_a_reload(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], evidence=evidence_of(params.release))

    async def look(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/release")
            assert await browser.evaluate("document.querySelector('[aria-current=step] strong').textContent") == "Shadow"
            with open_state(tmp_path) as engine, engine.begin() as connection:
                row = release_row(**canary(params.release))
                connection.execute(release_runs.update().values(row))
            await browser.wait_for("document.querySelector('[aria-current=step] strong').textContent === '25% of units'")
            assert browser.errors == []

    with running_console(params, tmp_path, now=None) as url:
        asyncio.run(look(url))


def test_every_state_is_readable_in_light_and_dark_and_fits_a_phone(params: Params, tmp_path: Path) -> None:
    count_answers(tmp_path)
    settings = params.release
    ended = {"stage": "ended", "ended_at": time.time()}
    promoted = canary(settings) | ended | {"outcome": "promoted", "reason": "x" * 400}
    stories = ({"evidence": evidence_of(settings)}, canary(settings), rolled_back(settings) | ended, promoted)
    write_release(tmp_path, [], **stories[0])
    for number, story in enumerate(stories[1:], 8):
        with open_state(tmp_path) as engine, engine.begin() as connection:
            connection.execute(release_runs.insert(), release_row(retrain_id=number, **story))

    async def look(url: str) -> None:
        async with open_browser() as browser:
            for path in ("/release/7", "/release/8", "/release/9", "/release/10", "/live", "/login?to=/release"):
                await browser.open(f"{url}{path}")
                await browser.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
                for scheme in ("light", "dark"):
                    await browser.prefer(scheme)
                    assert await browser.faint_texts() == {}, (path, scheme)
                await browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
                assert await browser.evaluate(FITS), path
                await browser.call("Emulation.clearDeviceMetricsOverride")
            await browser.open(f"{url}/release/9")
            widths = await browser.evaluate(BARS)
            assert len(widths) == 8 and max(widths) > 3 * sorted(widths)[4]  # latency broke, the others did not
            assert browser.errors == []

    with running_console(params, tmp_path, now=None) as url:
        asyncio.run(look(url))


def test_blind_texts_are_labelled_by_keyboard(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path)
    texts = [text for text, label, other in COPIED if label != other]
    shown = "document.querySelector('blockquote.text')?.textContent"

    async def shows(browser: Browser, text: str) -> None:
        await browser.wait_for(
            f"{shown} === {text!r} && !document.querySelector('[aria-busy]') && document.readyState === 'complete'"
        )

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/label/next")
            await shows(browser, texts[0])
            await browser.press("v")  # there is nothing to verify: no model's answer is here
            await browser.press("/")
            await type_text(browser, "refund")
            await browser.press("Enter")
            await shows(browser, texts[1])
            for scheme in ("light", "dark"):
                await browser.prefer(scheme)
                assert await browser.faint_texts() == {}, scheme
            await browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
            assert await browser.evaluate(FITS)
            await browser.call("Emulation.clearDeviceMetricsOverride")
            await browser.press("s")
            await shows(browser, texts[2])
            await browser.press("u")
            await shows(browser, texts[1])
            assert browser.errors == []

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert labels_in_force(tmp_path) == [("local", "refund")]
