"""The loop's parts, and a loop that is stopped. The whole loop is `make loop` itself, which takes five minutes or more."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evergreen.loop import chart
from evergreen.loop.annotators import ANNOTATORS, Annotators, truth_of
from evergreen.loop.customers import CustomerMessage, Customers
from evergreen.loop.environment import FAST_INTERVALS, NOT_GRADUAL, Environment, create_environment, on_free_ports, params_of_loop
from evergreen.loop.events import Facts, Observed, list_events
from evergreen.loop.scenario import AT_LEAST_S, FAST_PER_S, FOR_NEW_CHAMPION, RETRAIN_S, Scenario
from evergreen.loop.scorecard import curve, promises, quality
from pipeline.errors import InputError
from pipeline.lifetime import processes_with
from pipeline.params import Params
from serving.access.tokens import add_token
from tests.conftest import ROOT, Project
from tests.http_servers import serving_in_thread
from tests.monitoring.conftest import tools  # noqa: F401 (a fixture)
from tests.monitoring.console.queue.queue_client import label_queue, labels_in_force
from tests.monitoring.console.queue.rounds import TEXTS, write_queue


def sent(at_s: float, *, is_new: bool = False, version: int = 1, predicted: str = "a", truth: str = "a") -> CustomerMessage:
    return CustomerMessage(at_s, "hi", truth, is_new, f"id-{at_s}", predicted, version, "" if version else "refused")


OLD = [sent(at_s, predicted="a" if at_s % 10 else "b") for at_s in range(100)]  # 90 % right
FALLEN = [sent(100 + at_s, is_new=True, predicted="a" if at_s % 2 else "b") for at_s in range(100)]
AFTER = [sent(200 + at_s, is_new=True, version=2, predicted="a" if at_s % 5 else "b") for at_s in range(100)]
WHOLE = [*OLD, *FALLEN, *AFTER]
DONE = Facts(None, None, [{"state": "done", "failure": None}], [])


def half_correct(texts: Sequence[str]) -> list[str]:
    return ["a" if number % 2 else "b" for number in range(len(texts))]


def test_a_snapshot_of_the_messages_stays_while_more_are_sent() -> None:
    customers = Customers([], "", 0.0)
    customers.messages.extend(OLD)
    snapshot = customers.snapshot()
    customers.messages.append(OLD[0])
    assert snapshot == OLD


# scorecard


def test_quality_is_compared_with_the_first_version_on_the_same_messages() -> None:
    measured = quality(WHOLE, half_correct)
    assert (measured.before, measured.fallen, measured.after, measured.without) == (0.9, 0.5, 0.8, 0.5)
    assert measured.won_back == pytest.approx(0.75)
    assert measured.by_luck < 0.001
    nothing = quality([*OLD, *FALLEN], half_correct)
    assert isnan(nothing.after)
    assert nothing.by_luck == 1.0


@pytest.mark.parametrize(
    ("messages", "facts", "whole_s", "leftover", "broken"),
    [
        (WHOLE, DONE, 350.0, 0, []),
        ([*OLD, *FALLEN], DONE, 350.0, 0, [0, 5, 6]),  # no new champion
        ([*OLD, *FALLEN, *(message._replace(at_s=message.at_s + 500) for message in AFTER)], DONE, 361.0, 0, [0, 1]),
        ([*WHOLE, sent(300, version=0)], DONE, 350.0, 0, [2]),
        (WHOLE, DONE._replace(retrains=DONE.retrains * 2), 350.0, 0, [4]),
        ([*OLD, *FALLEN, *(message._replace(predicted="b") for message in AFTER[::2]), *AFTER[1::2]], DONE, 350.0, 0, [5, 6]),
        (WHOLE, DONE, 350.0, 1, [7]),
    ],
)
def test_each_promise_can_be_broken(
    messages: list[CustomerMessage], facts: Facts, whole_s: float, leftover: int, broken: list[int]
) -> None:
    events = list_events(facts, messages, Observed(None, None, 0, {}), 0.0)
    measured = quality(messages, half_correct)
    scored = promises(messages, facts, measured, events, failed_labels=0, whole_s=whole_s, leftover=leftover)
    assert [number for number, promise in enumerate(scored) if not promise.is_kept] == broken


def test_the_curve_is_the_share_of_correct_answers_among_the_last_messages() -> None:
    assert curve(OLD, 10)[0] == (9, 0.9)
    assert curve(FALLEN, 2)[-1] == (199, 0.5)
    assert curve(OLD[:9], 10) == []


def test_events_are_read_from_the_stores_in_order_of_time() -> None:
    alert = {"heard_at": 1130.0, "labels": {"alertname": "EvergreenDrift"}, "annotations": {"summary": "words moved"}}
    decision = {"at": 1140.0, "alertname": "EvergreenDrift", "reason": "labels"}
    steps = [
        {"step": "collect", "ended_at": 1145.0, "outcome": "done", "detail": "300 labelled texts"},
        {"step": "reproduce", "ended_at": None, "outcome": "running", "detail": ""},
    ]
    events = list_events(Facts(alert, decision, [], steps), WHOLE, Observed(134.0, 138.0, 300, {"train": 150.0}), 1000.0)
    assert [(event.at_s, event.name) for event in events] == [
        (0, "the first message is answered"),
        (100, "the shop sells something new"),
        (130, "the alert arrives"),
        (134, "texts are chosen"),
        (138, "labels arrive"),
        (140, "a retrain is decided"),
        (145, "collect"),
        (150, "a stage begins"),
        (200, "the new champion answers"),
    ]


def test_the_chart_is_drawn_for_a_whole_loop_and_for_one_that_was_cut_off(tmp_path: Path) -> None:
    for messages in (WHOLE, OLD[:5]):
        events = list_events(DONE, messages, Observed(134.0, 138.0, 300, {"train": 150.0, "evaluate": 180.0}), 0.0)
        chart.draw(messages, events, quality(messages, half_correct), tmp_path / "loop.png")
        with Image.open(tmp_path / "loop.png") as drawn:
            assert drawn.width > 1000


# environment


def test_only_intervals_ports_and_the_way_of_release_differ_from_the_params_of_head(params: Params) -> None:
    assert {name for values in FAST_INTERVALS.values() for name in values} == {
        "scrape_s", "evaluate_s", "group_wait_s", "group_interval_s", "poll_s", "flush_s", "settle_s", "label_wait_s",
    }  # fmt: skip
    before, after = params.model_dump(), on_free_ports(params_of_loop(params)).model_dump()
    changed = {(section, key) for section, values in before.items() for key in values if values[key] != after[section][key]}
    may_change = FAST_INTERVALS | NOT_GRADUAL
    assert NOT_GRADUAL == {"release": {"how": "at_once"}}
    assert all(key.endswith("port") or key in may_change[section] for section, key in changed)
    ports = [value for section in ("serve", "gateway", "alerts") for key, value in after[section].items() if key.endswith("port")]
    assert len(ports) == len(set(ports)) == 12


def test_without_a_packaged_model_the_error_names_the_command_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make repro"):
        create_environment(tmp_path, tmp_path / "scratch")


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_loop_that_is_stopped_leaves_no_process(made: Project, tmp_path: Path, number: signal.Signals) -> None:
    """Stop it with Ctrl-C, as a person does, or kill it, once everything runs: Triton, gateway and all of `make watch`."""
    scratch = tmp_path / "loop"
    command = [sys.executable, "-m", "evergreen.loop", "--keep", str(scratch)]
    (made / ".tools").symlink_to(ROOT / ".tools") if not (made / ".tools").exists() else None
    with subprocess.Popen(command, cwd=made.folder, stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout is not None
        for line in loop.stdout:
            if "all of them are ready" in line:
                break
        loop.send_signal(number)
        output = loop.stdout.read()
        assert loop.wait(timeout=120) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert "all processes have ended" in output
    else:  # nobody is left to wait for them
        wait_until(lambda: not list(processes_with("EVERGREEN_HOME", str(scratch / "live"))), within_s=90)
    assert list(processes_with("EVERGREEN_HOME", str(scratch / "live"))) == []


# customers and annotators


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Yield the URL of a gateway that answers `a`, or 503 to the text `no`, and the requests that it received."""
    received: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received.append((self.path, body))
            if body.get("text") == "no":
                self.send_error(503)
                return
            answer = {"predictions": [{"id": f"id-{body.get('text')}", "label": "a", "version": 1}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with serving_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, received


def test_customers_send_no_label(gateway: tuple[str, list[tuple[str, dict[str, str]]]]) -> None:
    url, received = gateway
    rows = [
        {"text": "old", "unit": "u", "label": "a", "phase": "stable"},
        {"text": "no", "unit": "u", "label": "b", "phase": "drift"},
        {"text": "new", "unit": "u", "label": "b", "phase": "drift"},
        {"text": "later", "unit": "u", "label": "b", "phase": "drift"},
    ]
    with Customers(rows, url, time.monotonic()) as customers:
        customers.per_s, customers.limit = 1000.0, 3
        wait_until(lambda: len(customers.messages) == 3)
        assert [(message.version, message.is_correct, message.is_new) for message in customers.messages] == [
            (1, True, False),
            (0, False, True),
            (1, False, True),
        ]
        assert "503" in customers.messages[1].failure
        assert {path for path, _ in received} == {"/v1/predict"}
        assert all("label" not in body for _, body in received)


@pytest.fixture
def own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)


def annotators_at(url: str, home: Path, **changed: Any) -> Annotators:
    truth = truth_of({"text": text, "label": "refund" if cluster == 1 else "track"} for text, cluster in TEXTS)
    settings = {"make_round": lambda: None, "budget": 100, "wrong_share": 0.0, "seed": 1} | changed
    return Annotators(url, {name: os.environ[f"TOKEN_{name}"] for name in ANNOTATORS}, truth, **settings)


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize(("budget", "wrong_share"), [(100, 0.0), (4, 0.0), (100, 1.0)])
def test_annotators_label_the_queue_in_turn_through_the_pages(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, wrong_share: float
) -> None:
    made = write_queue(tmp_path)
    rounds: list[str] = []
    for name in ANNOTATORS:
        monkeypatch.setenv(f"TOKEN_{name}", add_token(tmp_path / "tokens.json", name, ["label"], datetime.now(UTC)))
    changed = {"budget": budget, "wrong_share": wrong_share, "make_round": lambda: rounds.append("made")}
    with label_queue(params, tmp_path) as url, annotators_at(url, tmp_path, **changed) as annotators:
        assert (annotators.labels, rounds) == (0, [])
        annotators.begin()
        wait_until(lambda: annotators.labels == min(budget, len(TEXTS)) or bool(annotators.failures), within_s=60)
    assert annotators.failures == []
    assert rounds == ["made"]
    right = {row.prediction_id: "refund" if row.cluster == 1 else "track" for row in made.candidates}
    labels = labels_in_force(tmp_path)
    assert [name for name, _ in labels] == [ANNOTATORS[number % 2] for number in range(len(labels))]
    expected = list(right.values())[: len(labels)]
    answers = [label for _, label in labels]
    assert answers == expected if wrong_share == 0.0 else all(a != b for a, b in zip(answers, expected, strict=True))
    assert annotators.wrong == (len(labels) if wrong_share else 0)


@pytest.mark.usefixtures("own_state")
def test_a_console_that_refuses_is_told_in_its_words(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_queue(tmp_path)
    for name in ANNOTATORS:
        monkeypatch.setenv(f"TOKEN_{name}", add_token(tmp_path / "tokens.json", name, ["predict"], datetime.now(UTC)))
    with label_queue(params, tmp_path) as url, annotators_at(url, tmp_path) as annotators:
        annotators.begin()
        wait_until(lambda: bool(annotators.failures), within_s=60)
    assert "403" in annotators.failures[0]
    assert "lacks the scope label" in annotators.failures[0]


class Crowd:
    """Customers and annotators that do nothing."""

    def __init__(self, messages: list[CustomerMessage], total: int) -> None:
        self.messages, self.total, self.per_s, self.limit = messages, total, 0.0, 0
        self.texts, self.chosen_s, self.has_begun = 15, None, False

    def snapshot(self) -> list[CustomerMessage]:
        return self.messages

    def begin(self) -> None:
        self.has_begun = True


def test_labels_wait_for_the_alert_and_the_last_messages_for_the_new_champion(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = Facts(None, None, [], [])
    monkeypatch.setattr("evergreen.loop.scenario.read_facts", lambda _environment: facts)
    crowd = Crowd([*OLD, *FALLEN], 500)
    environment = Environment(tmp_path, tmp_path, tmp_path, params, {})
    scenario = Scenario(environment, crowd, crowd, time.monotonic(), time.time())  # type: ignore[arg-type]
    scenario.step()
    assert (crowd.has_begun, crowd.per_s, crowd.limit) == (False, FAST_PER_S, 500 - FOR_NEW_CHAMPION)
    alert = {"heard_at": time.time(), "labels": {"alertname": "EvergreenDrift"}, "annotations": {}}
    facts = Facts(alert, None, [], [])
    scenario.step()
    assert (crowd.has_begun, crowd.per_s) == (True, FAST_PER_S)
    running = {"state": "running", "progress": "stage train, 3 %", "began_wall": time.time()}
    facts = Facts(alert, None, [running], [])
    events = scenario.step()
    assert (crowd.limit, scenario.is_over) == (500 - FOR_NEW_CHAMPION, False)
    assert crowd.per_s == pytest.approx((500 - FOR_NEW_CHAMPION - 200) / RETRAIN_S, rel=0.1)
    assert {("labels arrive", "two people have labelled 15 texts of the queue"), ("a stage begins", "stage train")} <= {
        (event.name, event.detail) for event in events
    }
    facts = Facts(alert, None, [running | {"began_wall": time.time() - 2 * RETRAIN_S}], [])
    scenario.step()
    assert crowd.per_s == pytest.approx((500 - FOR_NEW_CHAMPION - 200) / AT_LEAST_S)  # it takes longer than expected
    facts = Facts(alert, None, [running | {"state": "done"}], [])
    scenario.step()
    assert (crowd.per_s, crowd.limit, scenario.is_over) == (FAST_PER_S, 500, False)
    crowd.messages += AFTER * 3
    assert scenario.is_over
    crowd.messages = [*OLD, *FALLEN]
    facts = Facts(alert, None, [running | {"state": "refused"}], [])
    scenario.step()
    assert scenario.is_over


def wait_until(happens: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)
