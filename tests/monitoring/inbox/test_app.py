"""The inbox over HTTP and in a real browser: what arrives is kept, shown as text, and never believed more than it deserves."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import requests

from pipeline.params import Alerts
from tests.monitoring.inbox.browser import browsing
from tests.monitoring.inbox.inbox_here import NOW, REPORT, drift, inbox_here, monitor_here, switch, told

NASTY = "<img src=x onerror=alert(1)> \"'& {{ 7*7 }} \u202e"


def test_a_message_shows_all_that_a_person_needs(alerts: Alerts, tmp_path: Path) -> None:
    with monitor_here() as port, inbox_here(alerts.model_copy(update={"monitor_port": port}), tmp_path) as here:
        assert here.post(switch(NOW - 12), drift()) == 204
        here.wait(lambda state: state["messages"][0]["evidence"] is not None)
        page = here.page()
    for part in (
        "firing",
        "Meaning of the texts of version 3 has moved",
        "2026-09-21 14:08:20 UTC",  # NOW − 300 s
        "<dt>statistic</dt><dd>0.0213</dd></div>\n        <div><dt>its threshold</dt><dd>0.0187</dd>",
        "<dt>log e-value</dt><dd>14.8</dd></div>\n        <div><dt>its threshold</dt><dd>9.21</dd>",
        "<dd>0.41</dd>",
        "<li>landing pad</li>",
        "can I choose another landing pad for drone delivery?",
        "<dd>7.0%</dd>",
        "87.0% (84.0% to 90.0%); on the reference 94.0%",
        "Nothing happens by itself",
        "curl -s http://127.0.0.1:8095/report.json",
        "docs/runbooks.md#evergreendrift",
        "Prometheus was heard of 12 s ago",
    ):
        assert part in page, part
    assert page.count("<blockquote") == 3


def test_without_the_monitor_the_message_says_so(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts.model_copy(update={"monitor_port": 9}), tmp_path) as here:
        here.post(drift())
        here.wait(lambda state: state["messages"][0]["evidence_problem"])
        assert "No words and no texts: the monitor could not be asked" in here.page()


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        ({**REPORT, "version": 4}, "is of version 4 by now"),
        ({"version": 3}, "not what was expected"),
        ([], "not what was expected"),
    ],
)
def test_a_report_that_does_not_fit_is_not_shown(report: object, problem: str, alerts: Alerts, tmp_path: Path) -> None:
    with monitor_here(report) as port, inbox_here(alerts.model_copy(update={"monitor_port": port}), tmp_path) as here:
        here.post(drift())
        state = here.wait(lambda state: state["messages"][0]["evidence_problem"])
    assert problem in state["messages"][0]["evidence_problem"]


def test_the_same_alert_is_one_message_however_often_it_comes(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts, tmp_path) as here:
        for _ in range(3):
            here.post(drift(), drift("input_length"))
        here.post(drift(began=NOW - 50))
        assert len(here.state()["messages"]) == 3
        page = here.page()
        assert "2 signals of version 3: each has moved away from its reference" in page


def test_words_and_texts_that_several_signals_share_stand_once(alerts: Alerts, tmp_path: Path) -> None:
    signals = [{**REPORT["signals"][0], "signal": name} for name in ("input_sketch", "input_length")]  # type: ignore[index]
    with (
        monitor_here({**REPORT, "signals": signals}) as port,
        inbox_here(alerts.model_copy(update={"monitor_port": port}), tmp_path) as here,
    ):
        here.post(drift(), drift("input_length"))
        here.wait(lambda state: all(one["evidence"] for one in state["messages"]))
        page = here.page()
    assert page.count("landing pad for drone delivery?") == 1
    assert page.count("<dd>14.8</dd>") == 2  # numbers are each signal's own


def test_each_alert_is_judged_by_its_own_status(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts, tmp_path) as here:
        here.post(switch(NOW - 200), drift(), drift("input_length"))
        here.post(drift(ended=NOW - 20), drift("input_length"))
        here.post(switch(NOW - 5))
        stands = {one["labels"]["signal"]: one["standing"] for one in here.state()["messages"]}
        assert stands == {"input_sketch": "over", "input_length": "firing"}


def test_an_end_while_prometheus_is_silent_is_not_shown_as_one(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts, tmp_path) as here:
        here.post(switch(NOW - 700), drift())
        here.post(drift(ended=NOW - 220))
        page = here.page()
        assert "end not confirmed" in page
        assert 'role="alert"' in page
        assert "The alerting is silent" in page
        here.post(switch(NOW), drift())  # Prometheus is back, and it still fires
        assert [one["standing"] for one in here.state()["messages"]] == ["firing"]
        assert "The alerting is silent" not in here.page()


def test_messages_survive_a_restart(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts, tmp_path) as here:
        here.post(switch(NOW - 9), drift())
        before = here.wait(lambda state: state["messages"][0]["evidence_problem"])
    with inbox_here(alerts, tmp_path) as here:
        assert here.state() == before


def test_only_the_last_messages_are_kept(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts.model_copy(update={"inbox_messages": 5}), tmp_path) as here:
        here.post(*[drift(began=NOW - number) for number in range(20)])
        began = [one["starts_at"] for one in here.state()["messages"]]
    assert began == [pytest.approx(NOW - number + 0.25, abs=1e-3) for number in (4, 3, 2, 1, 0)]


def test_a_file_that_cannot_be_read_is_put_aside(alerts: Alerts, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/messages.json").write_text('{"messages": [{"fing')
    with inbox_here(alerts, tmp_path) as here:
        assert here.post(drift()) == 204
    assert (tmp_path / "inbox/messages.unreadable").read_text() == '{"messages": [{"fing'


def test_what_cannot_be_kept_is_not_acknowledged(alerts: Alerts, tmp_path: Path) -> None:
    (tmp_path / "inbox").write_text("a file where the folder should be")
    with pytest.raises(NotADirectoryError):
        (tmp_path / "inbox/messages.json").read_bytes()
    (tmp_path / "inbox").unlink()
    with inbox_here(alerts, tmp_path) as here:
        (tmp_path / "inbox").write_text("a file where the folder should be")
        assert here.post(drift()) == 503
        assert here.state()["messages"] == []
        (tmp_path / "inbox").unlink()
        assert here.post(drift()) == 204


def test_what_is_not_alertmanagers_is_refused(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts, tmp_path) as here:
        assert here.send(b"{") == 422
        assert here.send(b"[" * 100_000) == 422
        assert here.send(json.dumps({"alerts": [{**drift(), "status": "perhaps"}]}).encode()) == 422
        assert here.send(json.dumps({"alerts": [{**drift(), "labels": {"x": "y" * 30_000}}]}).encode()) == 422
        assert here.send(b" " * (5 * 2**20)) == 413
        assert here.post(drift(), content_type="text/plain") == 415
        assert here.state()["messages"] == []


def test_a_name_that_leads_here_from_elsewhere_reads_nothing(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts, tmp_path) as here, pytest.raises(requests.HTTPError, match="400"):
        here.page(host="evil.example.org")


def test_whatever_a_message_holds_is_text(alerts: Alerts, tmp_path: Path) -> None:
    report = {**REPORT, "signals": [{**REPORT["signals"][0], "moved_words": [NASTY], "examples": [NASTY] * 3}]}  # type: ignore[index]
    nasty = dict.fromkeys(("summary", "description", "next", "look", "loss", "runbook_url"), NASTY)
    link = told({"alertname": NASTY, "severity": '" onfocus=alert(1) x="'}, {"runbook_url": "javascript:alert(1)"}, NOW - 9, None)
    with monitor_here(report) as port, inbox_here(alerts.model_copy(update={"monitor_port": port}), tmp_path) as here:
        here.post(drift(**nasty), link)
        here.wait(lambda state: any(one["evidence"] for one in state["messages"]))
        page = here.page()
    assert "<img" not in page
    assert "49" not in re.sub(r"\d{2}:\d{2}:\d{2}|\d{4}-\d{2}-\d{2}", "", page)
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 10
    assert 'href="javascript' not in page
    assert 'severity="' not in page


def test_in_a_browser_it_is_read_by_keyboard_and_nothing_runs(alerts: Alerts, tmp_path: Path) -> None:
    with monitor_here() as port, inbox_here(alerts.model_copy(update={"monitor_port": port}), tmp_path) as here:
        labels = {"alertname": "EvergreenQueueFull", "severity": "warning"}
        over = told(labels, {"summary": "The queue is full"}, NOW - 900, NOW - 600)
        here.post(switch(NOW - 800), over)
        here.post(switch(NOW - 590))
        here.post(switch(NOW - 380))
        here.post(switch(NOW - 180))
        here.post(switch(NOW - 12), drift(), drift("prediction_confidence"))
        here.wait(lambda state: sum(one["evidence"] is not None for one in state["messages"]) == 2)
        asyncio.run(read_by_keyboard(here.url, tmp_path))


async def read_by_keyboard(url: str, folder: Path) -> None:
    async with browsing() as browser:
        await browser.go(url)
        assert await browser.ask("document.title") == "(1) Evergreen inbox"
        assert await browser.ask("document.querySelectorAll('article').length") == 2
        assert await browser.ask("document.querySelectorAll('script').length") == 1  # ours; the one in a text is text
        await browser.press("Tab")
        assert await browser.ask("document.activeElement.className") == "skip"
        await browser.press("j")
        assert "2 signals of version 3" in await browser.ask("document.activeElement.querySelector('h2').textContent")
        await browser.press("Tab")
        assert "report.json" in await browser.ask("document.activeElement.textContent")
        await browser.press("j")
        assert await browser.ask("document.activeElement.querySelector('h2').textContent") == "The queue is full"
        await browser.press("Tab")
        await browser.press("Enter")
        await browser.until("document.querySelector('details').open")
        await browser.picture(folder / "light.png", width=1000, height=1500, scheme="light")
        await browser.picture(folder / "dark.png", width=1000, height=1500, scheme="dark")
        colours = [await browser.ask("getComputedStyle(document.body).backgroundColor")]
        await browser.picture(folder / "narrow.png", width=390, height=1400, scheme="light")
        colours.append(await browser.ask("getComputedStyle(document.body).backgroundColor"))
        assert colours[0] != colours[1]
        assert await browser.ask("document.documentElement.scrollWidth <= innerWidth")
        assert browser.complaints == []


def test_the_page_renews_itself_and_keeps_the_readers_place(alerts: Alerts, tmp_path: Path) -> None:
    with inbox_here(alerts.model_copy(update={"evaluate_s": 1}), tmp_path) as here:
        here.post(switch(NOW - 12), drift())

        async def read() -> None:
            async with browsing() as browser:
                await browser.go(here.url)
                await browser.press("j")
                here.post(told({"alertname": "Other", "severity": "info"}, {"summary": "Something else"}, NOW - 900, None))
                await browser.until("document.querySelectorAll('article').length === 2", within_s=10)
                assert await browser.ask("document.activeElement.tagName") == "ARTICLE"

        asyncio.run(read())
