"""Both pages in a real Chromium: by keyboard alone, on a phone, in the dark, with hostile texts and labels."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from monitoring.console.try_it import neighbours
from pipeline.params import Params
from tests.monitoring.console.console_client import answering, console_client
from tests.monitoring.console.published import HOSTILE, publish
from tests.monitoring.console.test_try_it import HostileConnection
from tests.monitoring.inbox.browser import PHONE, Browser, open_browser
from tests.serving.gateway.fake_triton import running_gateway

FITS = "document.documentElement.scrollWidth <= window.innerWidth"
GROUND = "getComputedStyle(document.body).backgroundColor"
FOCUS = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"


async def tab_to(browser: Browser, wanted: str, most: int = 60) -> None:
    """Press Tab until the element with this id or class has the focus."""
    for _ in range(most):
        if await browser.evaluate(FOCUS) == wanted:
            return
        await browser.press("Tab")
    raise AssertionError(f"{wanted} cannot be reached by Tab")


async def type_text(browser: Browser, text: str) -> None:
    await browser.call("Input.insertText", text=text)


async def ctrl_enter(browser: Browser) -> None:
    key: dict[str, Any] = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
    await browser.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
    await browser.call("Input.dispatchKeyEvent", type="keyUp", **key)


async def looks(browser: Browser) -> None:
    """Fail when the page is wider than a phone, or does not follow the colour scheme."""
    await browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
    assert await browser.evaluate(FITS)
    grounds = []
    for scheme in ("light", "dark"):
        await browser.prefer(scheme)
        grounds.append(await browser.evaluate(GROUND))
    assert grounds[0] != grounds[1]
    await browser.call("Emulation.clearDeviceMetricsOverride")


def test_try_it_works_by_keyboard_and_shows_hostile_texts_as_text(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "Connection", HostileConnection)
    publish(tmp_path)

    async def look(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/try")
            await tab_to(browser, "text")
            await type_text(browser, HOSTILE.replace("\x1b", ""))
            await ctrl_enter(browser)
            await browser.wait_for("document.querySelector('#label') !== null")
            assert await browser.evaluate("document.querySelectorAll('#answer script').length") == 0
            assert "<script>alert(1)</script>" in await browser.evaluate("document.querySelector('#label').textContent")
            assert "\\u202e" in await browser.evaluate("document.querySelector('#answer').textContent")
            assert await browser.evaluate("document.querySelectorAll('.bars tr').length") == 8
            assert await browser.evaluate("document.querySelector('.fill').getBoundingClientRect().width > 50")
            await looks(browser)
            await tab_to(browser, "right-label")
            await type_text(browser, "track")
            await browser.press("Enter")
            await browser.wait_for("document.querySelector('.thanks') !== null")
            await browser.evaluate("document.querySelector('.example').focus()")
            await browser.press("Enter")
            await browser.wait_for("document.getElementById('text').value === document.querySelector('.example').textContent")
            await browser.wait_for("document.querySelector('.thanks') === null")
            assert browser.errors == []

    with running_gateway(params, tmp_path, HostileConnection) as port, console_client(params, tmp_path, port) as console:
        asyncio.run(look(console.url))


def test_a_token_stays_in_the_tab_and_is_sent(params: Params, tmp_path: Path) -> None:
    body = {"request_id": "r", "error": {"code": "no_token", "message": "tokens are configured"}}
    received: list[Any] = []

    async def look(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/try")
            await tab_to(browser, "text")
            await type_text(browser, "where is my parcel?")
            await ctrl_enter(browser)
            await browser.wait_for("document.activeElement.id === 'token'")
            await type_text(browser, "evg_mine")
            await browser.open(f"{url}/try")
            assert await browser.evaluate("document.getElementById('token').value") == "evg_mine"
            assert await browser.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
            await tab_to(browser, "text")
            await type_text(browser, "again")
            await ctrl_enter(browser)
            await browser.wait_for("document.querySelector('.refusal') !== null")
            assert browser.errors == []

    with answering(401, body, received) as port, console_client(params, tmp_path, port) as console:
        asyncio.run(look(console.url))
    assert [request.headers.get("authorization") for request in received] == [None, "Bearer evg_mine"]


def test_model_is_read_by_keyboard_on_a_phone_and_in_the_dark(params: Params, tmp_path: Path) -> None:
    publish(tmp_path, 1, right=20)
    publish(tmp_path, 2, right=36)

    async def look(url: str) -> None:
        async with open_browser() as browser:
            for path in ("/model/2", "/model/1/against/2", "/model/9"):
                await browser.open(f"{url}{path}")
                assert await browser.evaluate("document.querySelectorAll('main script').length") == 0
                await looks(browser)
            await browser.open(f"{url}/model/2")
            assert "<script>alert(1)</script>" in await browser.evaluate("document.getElementById('main').textContent")
            assert await browser.evaluate("document.querySelectorAll('.reliability .point').length") > 0
            await browser.evaluate("document.querySelector('summary').focus()")
            await browser.press("Enter")
            assert await browser.evaluate("document.activeElement.parentElement.open")
            await browser.evaluate("document.querySelector('a[href$=\"/against/2\"]').focus()")
            await browser.press("Enter")
            await browser.wait_for("location.pathname === '/model/1/against/2' && document.readyState === 'complete'")
            assert browser.errors == []

    with console_client(params, tmp_path) as console:
        asyncio.run(look(console.url))
