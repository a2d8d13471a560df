"""The inbox over HTTP and in a real browser: messages are stored, escaped, and never trusted more than they deserve."""

import asyncio
import copy
import json
import re
import socketserver
from http.server import HTTPServer
from pathlib import Path

import pytest
import requests

from monitoring.clock import read_clock
from monitoring.inbox.explanation import fetch_explanation
from monitoring.retrain.alerts import ReceivedAlert, insert_alerts
from monitoring.retrain.journal import Journal
from pipeline.params import Alerts
from state.database import open_state
from tests.http_servers import serving_in_thread
from tests.monitoring.inbox.browser import open_browser
from tests.monitoring.inbox.running_inbox import NOW, REPORT, drift, posted_alert, running_inbox, serving_report, switch
from tests.monitoring.test_decisions import decide_all

HOSTILE = "<img src=x onerror=alert(1)> \"'& {{ 7*7 }} \u202e"


def test_a_message_shows_everything_a_person_needs(alerts: Alerts, tmp_path: Path) -> None:
    with serving_report() as port, running_inbox(alerts.model_copy(update={"monitor_port": port}), tmp_path) as inbox:
        assert inbox.post(switch(NOW - 12), drift()) == 204
        inbox.wait(lambda state: state["messages"][0]["evidence"] is not None)
        page = inbox.page()
    for part in (
        "firing",
        "Traffic of version 3 has changed",
        "The meaning of the texts has moved away from the reference of version 3",
        "2026-09-21 14:08:20 UTC",  # NOW − 300 s
        "Evidence (log e-value): 14.8, over its threshold of 9.21.",
        "<li>landing pad</li>",
        "can I choose another landing pad for drone delivery?",
        "about once in 2.7 years",
        "at 87.0% (84.0% to 90.0%). On the reference it was 94.0%; a fall is shown.",
        "no retrain controller has seen this alert",
        "label some of them and retrain: make repro",
        "curl -s http://127.0.0.1:8095/report.json",
        "docs/runbooks.md#evergreendrift",
        "Prometheus reported 12 s ago",
    ):
        assert part in page, part
    assert page.count("<blockquote") == 3


def test_without_the_monitor_the_message_says_so(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts.model_copy(update={"monitor_port": 9}), tmp_path) as inbox:
        inbox.post(drift())
        inbox.wait(lambda state: state["messages"][0]["evidence_problem"])
        assert "No words or texts: the monitor does not answer" in inbox.page()


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        ({**REPORT, "version": 4}, "is about version 4 now"),
        ({"version": 3}, "has an unexpected form"),
        ([], "has an unexpected form"),
    ],
)
def test_a_report_that_does_not_fit_is_not_shown(report: object, problem: str, alerts: Alerts, tmp_path: Path) -> None:
    with serving_report(report) as port, running_inbox(alerts.model_copy(update={"monitor_port": port}), tmp_path) as inbox:
        inbox.post(drift())
        state = inbox.wait(lambda state: state["messages"][0]["evidence_problem"])
    assert problem in state["messages"][0]["evidence_problem"]


def test_another_program_on_the_monitors_port_is_no_report() -> None:
    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    server = HTTPServer(("127.0.0.1", 0), Greeter)
    with serving_in_thread(server):
        explanation, problem = fetch_explanation(f"http://127.0.0.1:{server.server_port}/report.json", "3")
    assert explanation is None
    assert "the monitor does not answer (SSH-2.0" in problem


def test_an_alert_that_is_repeated_stays_one_message(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox:
        for _ in range(3):
            inbox.post(drift(), drift("input_length"))
        inbox.post(drift(started=NOW - 50))
        state = inbox.state()
        assert len(state["messages"]) == 3
        assert [len(incident["lines"]) for incident in state["incidents"]] == [3]


def test_words_and_texts_shared_by_several_signals_appear_once(alerts: Alerts, tmp_path: Path) -> None:
    signals = [{**REPORT["signals"][0], "signal": name} for name in ("input_sketch", "input_length")]  # type: ignore[index]
    with (
        serving_report({**REPORT, "signals": signals}) as port,
        running_inbox(alerts.model_copy(update={"monitor_port": port}), tmp_path) as inbox,
    ):
        inbox.post(drift(), drift("input_length"))
        inbox.wait(lambda state: all(message["evidence"] for message in state["messages"]))
        page = inbox.page()
    assert page.count("landing pad for drone delivery?") == 1
    assert page.count("Evidence (log e-value): 14.8") == 2  # each signal has its own numbers


def test_each_alert_has_its_own_status(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox:
        inbox.post(switch(NOW - 200), drift(), drift("input_length"))
        inbox.post(drift(ended=NOW - 20), drift("input_length"))
        inbox.post(switch(NOW - 5))
        statuses = {message["labels"]["signal"]: message["standing"] for message in inbox.state()["messages"]}
        assert statuses == {"input_sketch": "over", "input_length": "firing"}


def test_an_end_reported_while_prometheus_is_silent_is_not_confirmed(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox:
        inbox.post(switch(NOW - 700), drift())
        inbox.post(drift(ended=NOW - 220))
        page = inbox.page()
        assert "end not confirmed" in page
        assert 'role="alert"' in page
        assert "Alerting is silent" in page
        inbox.post(switch(NOW), drift())  # Prometheus is back, and the alert still fires
        assert [message["standing"] for message in inbox.state()["messages"]] == ["firing"]
        assert "Alerting is silent" not in inbox.page()


def test_messages_survive_a_restart(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox:
        inbox.post(switch(NOW - 9), drift())
        state = inbox.wait(lambda state: state["messages"][0]["evidence_problem"])
    with running_inbox(alerts, tmp_path) as inbox:
        assert inbox.state() == state


def test_only_the_newest_messages_are_stored(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts.model_copy(update={"inbox_messages": 5}), tmp_path) as inbox:
        inbox.post(*[drift(started=NOW - number) for number in range(20)])
        starts = [int(message["starts_at"]) for message in inbox.state()["messages"]]
    assert starts == [NOW - number for number in (4, 3, 2, 1, 0)]


def test_an_unreadable_file_is_renamed_not_lost(alerts: Alerts, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/messages.json").write_text('{"messages": [{"fing')
    with running_inbox(alerts, tmp_path) as inbox:
        assert inbox.post(drift()) == 204
    assert (tmp_path / "inbox/messages.unreadable").read_text() == '{"messages": [{"fing'


def test_a_message_that_cannot_be_stored_is_not_acknowledged(alerts: Alerts, tmp_path: Path) -> None:
    (tmp_path / "inbox").write_text("a file instead of the folder")
    with pytest.raises(NotADirectoryError):
        (tmp_path / "inbox/messages.json").read_bytes()
    (tmp_path / "inbox").unlink()
    with running_inbox(alerts, tmp_path) as inbox:
        (tmp_path / "inbox").write_text("a file instead of the folder")
        assert inbox.post(drift()) == 503
        assert inbox.state()["messages"] == []
        (tmp_path / "inbox").unlink()
        assert inbox.post(drift()) == 204


def test_the_messages_are_bounded_in_bytes_too_and_the_newest_stay(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts.model_copy(update={"inbox_bytes": 50_000}), tmp_path) as inbox:
        long = drift()["annotations"] | {f"note {number}": "x" * 3_500 for number in range(4)}  # stored whole
        for number in range(6):
            assert inbox.post({**drift(started=NOW - 100 + number), "annotations": long}) == 204
        starts = [int(message["starts_at"]) for message in inbox.state()["messages"]]
        assert starts == [NOW - 97, NOW - 96, NOW - 95]
        assert (tmp_path / "inbox/messages.json").stat().st_size < 60_000


def test_a_body_that_is_not_alertmanagers_webhook_is_refused(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox:
        assert inbox.send(b"{") == 422
        assert inbox.send(b"[" * 100_000) == 422
        assert inbox.send(json.dumps({"alerts": [{**drift(), "status": "perhaps"}]}).encode()) == 422
        assert inbox.send(json.dumps({"alerts": [{**drift(), "labels": {"x": "y" * 30_000}}]}).encode()) == 422
        assert inbox.send(b" " * (5 * 2**20)) == 413
        assert inbox.post(drift(), content_type="text/plain") == 415
        assert inbox.state()["messages"] == []


def test_a_foreign_host_name_reads_nothing(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox, pytest.raises(requests.HTTPError, match="400"):
        inbox.page(host="evil.example.org")


def test_the_card_follows_the_decisions_in_the_journal(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox, open_state(tmp_path) as engine:
        journal = Journal(engine.begin, "evergreen")
        inbox.post(drift())
        assert "no retrain controller has seen this alert" in inbox.page()
        body = json.dumps({"labels": drift()["labels"]})
        with engine.begin() as connection:
            insert_alerts(connection, [ReceivedAlert("f", NOW - 299, "firing", body)], NOW)
        journal.record_episodes(read_clock())
        journal.decide(decide_all("waiting", "no_harm"), read_clock())
        assert "No retrain yet: nothing shows that answers got worse" in inbox.page()
        journal.decide(decide_all("started", "labels"), read_clock())
        assert journal.claim("one", read_clock(), lease_s=60)
        assert "A retrain runs, because enough new labels have arrived." in inbox.page()
        assert inbox.state()["incidents"][0]["decided"] == "A retrain runs, because enough new labels have arrived."


def test_a_card_is_updated_while_its_incident_lives(alerts: Alerts, tmp_path: Path) -> None:
    now, report = [NOW], copy.deepcopy(REPORT)
    with serving_report(report) as port:
        changed = alerts.model_copy(update={"monitor_port": port})
        with running_inbox(changed, tmp_path, clock=lambda: now[0]) as inbox:
            inbox.post(drift())
            inbox.wait(lambda state: "14.8, over" in state["incidents"][0]["lines"][0]["evidence"])
            report["at"], report["signals"][0]["log_e"] = "2026-09-21T14:04:20+00:00", 8.5  # type: ignore[index]
            now[0] += alerts.evaluate_s
            inbox.wait(lambda state: "8.5 now, back under" in state["incidents"][0]["lines"][0]["evidence"])
            page = inbox.page()
    assert "8.5 now, back under" in page
    assert "14.8, over" not in page


def test_everything_in_a_message_is_escaped(alerts: Alerts, tmp_path: Path) -> None:
    report = {**REPORT, "signals": [{**REPORT["signals"][0], "moved_words": [HOSTILE], "examples": [HOSTILE] * 3}]}  # type: ignore[index]
    hostile = dict.fromkeys(("summary", "description", "next", "look", "loss", "runbook_url"), HOSTILE)
    link = posted_alert(
        {"alertname": HOSTILE, "severity": '" onfocus=alert(1) x="'}, {"runbook_url": "javascript:alert(1)"}, NOW - 9, None
    )
    with serving_report(report) as port, running_inbox(alerts.model_copy(update={"monitor_port": port}), tmp_path) as inbox:
        inbox.post(drift(**hostile), link)
        inbox.wait(lambda state: any(message["evidence"] for message in state["messages"]))
        page = inbox.page()
    assert "<img" not in page
    assert "49" not in re.sub(r"\d{2}:\d{2}:\d{2}|\d{4}-\d{2}-\d{2}", "", page)
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 10
    assert 'href="javascript' not in page
    assert 'severity="' not in page
    assert "\u202e" not in page
    assert "\\u202e" in page


def test_an_alert_that_is_wrong_or_too_large_loses_no_other(alerts: Alerts, tmp_path: Path) -> None:
    large = drift("input_length", description="x" * 30_000) | {"startsAt": "0001-01-01T00:00:00+14:00"}
    with running_inbox(alerts.model_copy(update={"monitor_port": 9}), tmp_path) as inbox:
        assert inbox.post(drift(), {**drift(), "status": "perhaps"}, large) == 204
        assert {message["labels"]["signal"] for message in inbox.state()["messages"]} == {"input_sketch", "input_length"}
        page = inbox.page()
    assert "[cut: 30,000 characters]" in page
    assert "This message is not whole: it was too large" in page


def test_an_end_that_cannot_be_read_counts_from_its_receipt(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts, tmp_path) as inbox:
        inbox.post(drift(ended=NOW - 20) | {"endsAt": "soon"})
        assert [message["ends_at"] for message in inbox.state()["messages"]] == [NOW]


def test_the_page_works_by_keyboard_and_runs_no_injected_script(alerts: Alerts, tmp_path: Path) -> None:
    with serving_report() as port, running_inbox(alerts.model_copy(update={"monitor_port": port}), tmp_path) as inbox:
        labels = {"alertname": "EvergreenQueueFull", "severity": "warning"}
        over = posted_alert(labels, {"summary": "The queue is full"}, NOW - 900, NOW - 600)
        inbox.post(switch(NOW - 800), over)
        inbox.post(switch(NOW - 590))
        inbox.post(switch(NOW - 380))
        inbox.post(switch(NOW - 180))
        inbox.post(switch(NOW - 12), drift(), drift("prediction_confidence"))
        inbox.wait(lambda state: sum(message["evidence"] is not None for message in state["messages"]) == 2)
        asyncio.run(read_by_keyboard(inbox.url, tmp_path))


async def read_by_keyboard(url: str, folder: Path) -> None:
    async with open_browser() as browser:
        await browser.open(url)
        assert await browser.evaluate("document.title") == "(1) Evergreen inbox"
        assert await browser.evaluate("document.querySelectorAll('article').length") == 2
        assert (
            await browser.evaluate("document.querySelectorAll('script').length") == 1
        )  # ours; the script in an example text is escaped
        await browser.press("Tab")
        assert await browser.evaluate("document.activeElement.className") == "skip"
        await browser.press("j")
        assert "Traffic of version 3" in await browser.evaluate("document.activeElement.querySelector('h2').textContent")
        await browser.press("Tab")
        assert "report.json" in await browser.evaluate("document.activeElement.textContent")
        await browser.press("j")
        assert await browser.evaluate("document.activeElement.querySelector('h2').textContent") == "The queue is full"
        await browser.press("Tab")
        await browser.press("Enter")
        await browser.wait_for("document.querySelector('details').open")
        await browser.screenshot(folder / "light.png", width=1000, height=1500, scheme="light")
        await browser.screenshot(folder / "dark.png", width=1000, height=1500, scheme="dark")
        colours = [await browser.evaluate("getComputedStyle(document.body).backgroundColor")]
        await browser.screenshot(folder / "narrow.png", width=390, height=1400, scheme="light")
        colours.append(await browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert colours[0] != colours[1]
        assert await browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.errors == []


FOCUSED_CARD = "document.activeElement.closest('article').querySelector('h2').textContent"


@pytest.mark.parametrize("focus", ["article", "article .command"])
def test_the_page_refreshes_itself_and_keeps_the_focus(focus: str, alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts.model_copy(update={"evaluate_s": 1}), tmp_path) as inbox:
        inbox.post(switch(NOW - 12), drift())

        async def read() -> None:
            async with open_browser() as browser:
                await browser.open(inbox.url)
                await browser.evaluate(f"document.querySelector('{focus}').focus()")
                newer = posted_alert({"alertname": "Other", "severity": "info"}, {"summary": "Something else"}, NOW - 10, None)
                inbox.post(newer)  # its card stands before the one with the focus
                await browser.wait_for("document.querySelectorAll('article').length === 2", within_s=10)
                assert await browser.evaluate("document.querySelector('h2').textContent") == "Something else"
                assert await browser.evaluate(f"document.activeElement.matches('{focus}')")
                assert "Traffic of version 3" in await browser.evaluate(FOCUSED_CARD)

        asyncio.run(read())


def test_a_refused_refresh_leaves_the_messages_on_the_page(alerts: Alerts, tmp_path: Path) -> None:
    with running_inbox(alerts.model_copy(update={"evaluate_s": 1}), tmp_path) as inbox:
        inbox.post(switch(NOW - 12), drift())

        async def read() -> None:
            async with open_browser() as browser:
                await browser.open(inbox.url)
                await browser.evaluate("answer = fetch; fetch = async () => new Response('too busy', { status: 503 }); 0")
                await browser.wait_for("document.getElementById('offline') !== null", within_s=10)
                assert await browser.evaluate("document.querySelectorAll('article').length") == 1
                await browser.evaluate("fetch = answer; 0")
                await browser.wait_for("document.getElementById('offline') === null", within_s=10)

        asyncio.run(read())
