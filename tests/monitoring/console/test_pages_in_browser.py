"""Both pages in a real Chromium: by keyboard alone, on a phone, in the dark, with hostile texts and labels."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from monitoring.console.try_it import neighbours
from pipeline.params import Params
from tests.monitoring.console.console_client import SentRequest, answering, console_client
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


def test_labels_and_examples_are_sent_as_they_are_and_shown_with_escapes(params: Params, tmp_path: Path) -> None:
    publish(tmp_path)
    shares = {HOSTILE: 0.9, "track": 0.1}
    prediction = {"id": "6a", "label": HOSTILE, "confidence": 0.9, "version": 1, "role": "champion", "cached": False}
    body = {"predictions": [prediction | {"probabilities": shares}], "kind": "label"}
    received: list[SentRequest] = []

    async def look(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/try")
            example = "[...document.querySelectorAll('.example')].find((one) => one.textContent.includes('evil'))"
            await browser.evaluate(f"{example}.click()")
            await browser.wait_for("document.querySelector('#confirm') !== null")
            await browser.evaluate("document.querySelector('#confirm').click()")
            await browser.wait_for("document.querySelector('#thanks').childElementCount > 0 ")
            option = "document.querySelector('#known-labels option').value"
            await browser.evaluate(f"document.querySelector('#right-label').value = {option}")
            await browser.evaluate("document.querySelector('#correction').requestSubmit()")
            await browser.wait_for("!document.querySelector('[aria-busy]')")
            assert browser.errors == []

    with answering(200, body, received) as port, console_client(params, tmp_path, port) as console:
        asyncio.run(look(console.url))
    assert [request.body.get("text") or request.body.get("label") for request in received] == [HOSTILE] * 3


def test_a_correction_while_an_answer_is_awaited_drops_neither(params: Params, tmp_path: Path) -> None:
    prediction = {"id": "6a", "label": "track", "confidence": 0.9, "version": 1, "role": "champion", "cached": False}
    ask = "document.getElementById('text').value = 'hello'; document.getElementById('send').click()"
    hold = "window.held = []; window.sent = window.fetch; window.fetch = (path, options) => "
    hold += "new Promise((go) => window.held.push(() => go(window.sent(path, options))))"

    async def look(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/try")
            await browser.evaluate(ask)
            await browser.wait_for("document.querySelector('#confirm') !== null")
            await browser.evaluate(f"document.querySelector('#confirm').className = 'old'; {hold}")
            await browser.evaluate(ask)
            await browser.evaluate("document.querySelector('#confirm').click()")
            await browser.evaluate("window.held[1]()")
            await browser.wait_for("document.querySelector('#thanks').childElementCount > 0")
            await browser.evaluate("window.held[0]()")
            await browser.wait_for("document.querySelector('#answer:not([aria-busy]) #confirm:not(.old)') !== null")

    with answering(200, {"predictions": [prediction]}) as port, console_client(params, tmp_path, port) as console:
        asyncio.run(look(console.url))


def test_without_scripts_the_page_says_what_to_do(params: Params, tmp_path: Path) -> None:
    async def look(url: str) -> None:
        async with open_browser() as browser:
            await browser.call("Emulation.setScriptExecutionDisabled", value=True)
            await browser.open(f"{url}/try")
            assert "needs JavaScript" in await browser.evaluate("document.querySelector('noscript').innerText")

    with console_client(params, tmp_path) as console:
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
