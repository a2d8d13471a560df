"""The console in a real browser: by keyboard alone, in the dark, on a phone, without the network, and while it renews itself."""

import asyncio
import re
from pathlib import Path

import requests

from pipeline.params import Params
from tests.monitoring.console.running_console import running_console
from tests.monitoring.console.story import tell
from tests.monitoring.inbox.browser import Browser, open_browser

FOCUSED = "document.activeElement"


async def tab_to(browser: Browser, condition: str) -> None:
    """Press Tab until the focused element fulfils a condition; every element on the way shows its focus."""
    for _ in range(80):
        await browser.press("Tab")
        if await browser.evaluate(f"{FOCUSED}.{condition}"):
            assert await browser.evaluate(f"{FOCUSED}.matches(':focus-visible')")
            return
    raise AssertionError(f"no element with {condition} is reached by Tab")


def test_live_works_by_keyboard_in_the_dark_and_on_a_phone(params: Params, tmp_path: Path) -> None:
    tell(tmp_path, hostile=True)
    with running_console(params, tmp_path) as url:
        asyncio.run(read_live(url, tmp_path))


async def read_live(url: str, folder: Path) -> None:
    async with open_browser() as browser:
        await browser.call("Network.enable")
        await browser.open(f"{url}/live")
        assert await browser.evaluate("document.title") == "Live – Evergreen"
        await browser.press("Tab")
        assert await browser.evaluate(f"{FOCUSED}.className") == "skip"
        await browser.press("Enter")
        assert await browser.evaluate(f"{FOCUSED}.id") == "main"
        await tab_to(browser, "matches('.ranges a[href$=\"6h\"]')")
        await browser.press("Enter")
        await browser.wait_for("location.search === '?range=6h' && document.readyState === 'complete'")
        await tab_to(browser, "matches('.lanes a')")
        assert "Evergreen" in await browser.evaluate(f"{FOCUSED}.getAttribute('aria-label')")
        await tab_to(browser, "matches('#table-happened summary')")
        await browser.press("Enter")
        await browser.wait_for("document.querySelector('#table-happened').open")
        await tab_to(browser, "matches('#table-happened td a')")
        await browser.press("Enter")
        await browser.wait_for("location.pathname === '/live/why' && document.readyState === 'complete'")
        await browser.evaluate(
            "document.querySelector('.lookup input').value = '2'; document.querySelector('.lookup').requestSubmit(); 0"
        )
        await browser.wait_for("location.search === '?name=2' && document.readyState === 'complete'")

        await browser.open(f"{url}/live?range=6h")
        assert await browser.evaluate("document.querySelectorAll('svg.chart').length") == 7
        assert await browser.evaluate("document.querySelectorAll('script').length") == 1
        await browser.screenshot(folder / "light.png", width=1280, height=2000, scheme="light")
        light = await colours(browser)
        assert await browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await browser.screenshot(folder / "dark.png", width=1280, height=2000, scheme="dark")
        dark = await colours(browser)
        assert all(one != other for one, other in zip(light, dark, strict=True))
        await browser.screenshot(folder / "phone.png", width=375, height=2000, scheme="light")
        assert await browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await browser.evaluate("getComputedStyle(document.querySelector('.keys')).display") == "flex"
        assert await smallest_text(browser) >= 12
        assert browser.errors == []


async def colours(browser: Browser) -> list[str]:
    """Return the colours of ground, text and the first line."""
    page = "getComputedStyle(document.body)"
    line = "getComputedStyle(document.querySelector('.line')).stroke"
    return [await browser.evaluate(code) for code in (f"{page}.backgroundColor", f"{page}.color", line)]


async def smallest_text(browser: Browser) -> float:
    """Return the smallest font of the charts as it is drawn, in pixels."""
    sizes = "[...document.querySelectorAll('.chart text')].map((t) => parseFloat(getComputedStyle(t).fontSize))"
    return float(await browser.evaluate(f"Math.min(...{sizes})"))


def test_live_renews_itself_and_keeps_what_is_open_and_where_one_reads(params: Params, tmp_path: Path) -> None:
    tell(tmp_path)
    params = params.model_copy(update={"alerts": params.alerts.model_copy(update={"evaluate_s": 1})})
    with running_console(params, tmp_path) as url:

        async def read() -> None:
            async with open_browser() as browser:
                await browser.open(f"{url}/live?range=6h")
                await browser.evaluate("document.querySelector('#table-drift summary').focus()")
                await browser.press("Enter")
                await browser.evaluate("scrollTo(0, 900); old = document.getElementById('live'); 0")
                at = await browser.evaluate("scrollY")
                await browser.wait_for("document.getElementById('live') !== old")
                assert await browser.evaluate("document.querySelector('#table-drift').open")
                assert await browser.evaluate(f"{FOCUSED}.matches('#table-drift summary')")
                assert abs(await browser.evaluate("scrollY") - at) <= 1
                assert browser.errors == []

        asyncio.run(read())


def test_every_page_needs_nothing_from_another_host(params: Params, tmp_path: Path) -> None:
    with running_console(params, tmp_path) as url:
        for path in ("/live", "/live/why?name=1"):
            answer = requests.get(f"{url}{path}", timeout=20)
            fetched = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"([^\"]*)\"", answer.text)
            assert all(address.startswith("/") or address == "data:," for address in fetched), fetched
            assert "style=" not in answer.text and not re.search(r"\son\w+=", answer.text)
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
