"""The label queue in a real Chromium: by keyboard alone, many at once, with a login, on a phone, in the dark, and readable."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.params import Params
from serving.access.tokens import add_token
from tests.monitoring.console.queue.disputed import dispute_a_row
from tests.monitoring.console.queue.queue_client import label_queue, labels_in_force, noted_actions
from tests.monitoring.console.queue.rounds import TEXTS, write_queue
from tests.monitoring.console.test_browser import tab_to
from tests.monitoring.console.test_pages_in_browser import type_text
from tests.monitoring.inbox.browser import PHONE, Browser, open_browser

pytestmark = pytest.mark.usefixtures("own_database")
SHOWN = "document.querySelector('blockquote.text')?.textContent"
FITS = "document.documentElement.scrollWidth <= window.innerWidth"
FOCUSED = "document.activeElement"


async def shows(browser: Browser, number: int) -> None:
    """Wait until the text with this number is asked about."""
    text = TEXTS[number][0]
    await browser.wait_for(
        f"{SHOWN} === {text!r} && !document.querySelector('[aria-busy]') && document.readyState === 'complete'"
    )


def test_the_queue_is_worked_off_by_keyboard_alone(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/label")
            await tab_to(browser, "matches('.button.primary')")
            await browser.press("Enter")
            await shows(browser, 0)
            await browser.press("v")  # the model is not sure of this text: nothing happens
            await browser.press("1")
            await shows(browser, 1)
            assert await browser.evaluate(f"{FOCUSED}.id") == "main"
            await browser.press("/")
            await type_text(browser, "refnd")
            await browser.press("Enter")
            await browser.wait_for("document.querySelector('#refusal')?.textContent.includes('refnd')")
            assert await browser.evaluate("document.querySelector('#typed').value") == "refnd"
            await browser.press("/")
            await type_text(browser, "refund")  # what was typed is selected, so typing replaces it
            await browser.press("Enter")
            await shows(browser, 2)
            await browser.press("n")
            await type_text(browser, "1 s u")  # keys are text in a field
            await browser.press("Escape")
            await browser.press("n")
            await type_text(browser, "buy voucher")
            await browser.press("Enter")
            await shows(browser, 3)
            await browser.press("s")
            await shows(browser, 4)
            await browser.press("u")
            await shows(browser, 3)
            await browser.press("2")
            await shows(browser, 4)
            await browser.press("?")
            assert await browser.evaluate("document.querySelector('#keys').open")
            await browser.open(f"{url}/label/next?mode=verify")
            await shows(browser, 5)
            await browser.press("v")
            await browser.wait_for("document.body.textContent.includes('Nothing is left for you to verify')")
            assert browser.errors == [error for error in browser.errors if "422" in error]  # the typed label that does not exist

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert [label for _, label in labels_in_force(tmp_path)] == ["refund", "refund", "buy voucher", "refund", "track"]
    actions = [action for action, _, is_in_force in noted_actions(tmp_path) if is_in_force]
    assert actions == ["label", "label", "propose", "label", "verify"]


def test_many_texts_are_ticked_and_labelled_by_keyboard(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/label/cluster/2")
            await browser.press("a")
            await tab_to(browser, "matches('.tick input')")
            await browser.press(" ")  # all but the first
            await browser.press("1")
            await browser.wait_for("document.querySelectorAll('.tick').length === 1")
            await browser.press("u")
            await browser.wait_for("document.querySelectorAll('.tick').length === 3")
            await browser.press("a")
            await browser.press("/")
            await type_text(browser, "refund")
            await browser.press("Enter")
            await browser.wait_for("document.body.textContent.includes('Nothing is left for you in this cluster')")
            assert browser.errors == []

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert labels_in_force(tmp_path) == [("local", "refund")] * 3
    assert [label for _, label, is_in_force in noted_actions(tmp_path) if not is_in_force] == ["track"] * 2


def test_a_token_logs_in_and_never_reaches_an_address_or_a_script(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    token = add_token(tmp_path / "tokens.json", "ana", ["label"], datetime.now(UTC))

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/label")
            await tab_to(browser, "id === 'token'")
            await type_text(browser, token)
            await browser.press("Enter")
            await browser.wait_for("location.pathname === '/label' && document.readyState === 'complete'")
            assert await browser.evaluate("document.cookie") == ""
            assert token not in await browser.evaluate("location.href + document.documentElement.outerHTML")
            await browser.open(f"{url}/label/next")
            await browser.press("1")
            await shows(browser, 1)
            await browser.evaluate("document.querySelector('.account button').click()")
            await browser.wait_for("location.pathname === '/login'")
            assert browser.errors == []

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert labels_in_force(tmp_path) == [("ana", "refund")]


def test_disputes_are_settled_by_keyboard(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def settle(url: str) -> str:
        async with open_browser() as browser:
            await browser.open(f"{url}/disputes")
            assert "1 open" in await browser.evaluate("document.title")
            await browser.press("c")  # no dispute has the focus: nothing happens
            await browser.press("j")
            await browser.press("y")
            await browser.wait_for("document.title.startsWith('0 open')")
            assert browser.errors == []
            return str(await browser.evaluate("document.querySelector('#main').textContent"))

    with label_queue(params, tmp_path) as url:
        dispute_a_row(tmp_path, monkeypatch)
        assert "stays" in asyncio.run(settle(url))


def test_every_page_is_readable_in_light_and_dark_and_fits_a_phone(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_queue(tmp_path, [*TEXTS, ("x" * 3000, 2), ("nospaces" * 40, 1)])
    sure = made.candidates[-1]

    async def look(url: str) -> None:
        async with open_browser() as browser:
            for path in ("/label", "/label/cluster/2", f"/label/text/{sure.prediction_id}?mode=verify", "/login", "/disputes"):
                await browser.open(f"{url}{path}")
                await browser.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
                for scheme in ("light", "dark"):
                    await browser.prefer(scheme)
                    assert await browser.faint_texts() == {}, (path, scheme)
                await browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
                assert await browser.evaluate(FITS), path
                fields = "[...document.querySelectorAll('input:not([type=hidden], [hidden])')]"
                assert await browser.evaluate(f"{fields}.every((field) => field.labels.length)"), path
                await browser.call("Emulation.clearDeviceMetricsOverride")
            assert browser.errors == []

    with label_queue(params, tmp_path) as url:
        dispute_a_row(tmp_path, monkeypatch)
        asyncio.run(look(url))


def test_while_the_console_is_away_a_key_says_so_and_nothing_is_lost(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/label/next")
            await browser.call("Network.enable")
            away = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
            await browser.call("Network.emulateNetworkConditions", **away)
            await browser.press("1")
            await browser.wait_for("document.querySelector('#refusal')?.textContent.includes('Nothing is lost')")
            await browser.call("Network.emulateNetworkConditions", **away | {"offline": False})
            await browser.press("1")
            await shows(browser, 1)

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert labels_in_force(tmp_path) == [("local", "refund")]


def test_a_refusal_that_is_no_page_is_shown_with_status_and_message(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/label/next")
            await browser.evaluate("document.querySelector('#give').action = '/live'")  # which takes no forms: the guard refuses
            await browser.press("1")
            refusal = "document.querySelector('#refusal')?.textContent"
            await browser.wait_for(refusal)
            assert "status 415: send JSON" in await browser.evaluate(refusal)

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert labels_in_force(tmp_path) == []


def test_keys_can_be_turned_off_and_the_browser_remembers_it(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    box = "document.querySelector('#use-keys')"

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.open(f"{url}/label/next")
            await browser.press("1")
            await shows(browser, 1)
            await browser.press("?")
            assert await browser.evaluate(f"{box}.checked && {box}.checkVisibility()")
            await browser.evaluate(f"{box}.click()")
            await browser.open(f"{url}/label/next")
            for key in ("1", "s", "u", "?"):
                await browser.press(key)
            assert not await browser.evaluate(f"{box}.checked || document.querySelector('#keys').open")
            await browser.evaluate("document.querySelector('.choice').click()")
            await shows(browser, 2)  # by hand, and the switch is still there
            assert not await browser.evaluate(f"{box}.checked || {box}.closest('[hidden]')")
            await browser.open(f"{url}/label")
            await browser.press("j")
            assert not await browser.evaluate(f"{FOCUSED}.matches('article')")
            await browser.open(f"{url}/label/next")
            await browser.evaluate(f"{box}.click()")
            await browser.press("1")
            await shows(browser, 3)
            assert browser.errors == []

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert labels_in_force(tmp_path) == [("local", "refund")] * 3


def test_without_scripts_tab_and_enter_do_everything(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)

    async def work(url: str) -> None:
        async with open_browser() as browser:
            await browser.call("Emulation.setScriptExecutionDisabled", value=True)
            await browser.open(f"{url}/label/next")
            await shows(browser, 0)
            await tab_to(browser, "matches('.choice')")
            await browser.press("Enter")
            await shows(browser, 1)
            await tab_to(browser, "matches('#undo button')")
            await browser.press("Enter")
            await shows(browser, 0)

    with label_queue(params, tmp_path) as url:
        asyncio.run(work(url))
    assert labels_in_force(tmp_path) == []
