"""The loop's parts, and what is left of it when it is stopped. The whole turn is `make loop` itself: it takes six minutes."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan
from pathlib import Path

import pytest
from PIL import Image

from evergreen.loop import picture
from evergreen.loop.customers import ANNOTATORS, Annotators, Asked, Customers
from evergreen.loop.environment import QUICK, Place, lay_out, quick, with_own_ports
from evergreen.loop.events import Facts, Seen, events
from evergreen.loop.scorecard import curve, promises, quality
from evergreen.loop.turn import AT_LEAST_S, BRISK_PER_S, KEPT_FOR_AFTER, RETRAIN_S, Turn
from pipeline.errors import InputError
from pipeline.params import Params
from serving.processes.lifetime import processes_with
from tests.conftest import ROOT, Project


def asked(at_s: float, *, is_new: bool = False, version: int = 1, said: str = "a", truth: str = "a", text: str = "hi") -> Asked:
    return Asked(at_s, text, truth, is_new, f"id-{at_s}", said, version, "" if version else "refused")


OLD = [asked(at_s, said="a" if at_s % 10 else "b") for at_s in range(100)]  # 90 % right
FALLEN = [asked(100 + at_s, is_new=True, said="a" if at_s % 2 else "b") for at_s in range(100)]
AFTER = [asked(200 + at_s, is_new=True, version=2, said="a" if at_s % 5 else "b") for at_s in range(100)]
TURNED = [*OLD, *FALLEN, *AFTER]
DONE = Facts(None, None, [{"state": "done", "failure": None}], [])


def half_right(texts: Sequence[str]) -> list[str]:
    return ["a" if number % 2 else "b" for number in range(len(texts))]


def test_what_was_asked_so_far_stays_while_more_is_asked() -> None:
    customers = Customers([], "", 0.0)
    customers.asked.extend(OLD)
    seen = customers.so_far()
    customers.asked.append(OLD[0])
    assert seen == OLD


# what it is held to


def test_quality_is_told_against_the_first_version_on_the_same_messages() -> None:
    found = quality(TURNED, half_right)
    assert (found.before, found.fallen, found.after, found.without) == (0.9, 0.5, 0.8, 0.5)
    assert found.won_back == pytest.approx(0.75)
    assert found.by_luck < 0.001
    nothing = quality([*OLD, *FALLEN], half_right)
    assert isnan(nothing.after)
    assert nothing.by_luck == 1.0


@pytest.mark.parametrize(
    ("turned", "facts", "whole_s", "left", "broken"),
    [
        (TURNED, DONE, 350.0, 0, []),
        ([*OLD, *FALLEN], DONE, 350.0, 0, [0, 5, 6]),  # no new champion
        ([*OLD, *FALLEN, *(one._replace(at_s=one.at_s + 500) for one in AFTER)], DONE, 361.0, 0, [0, 1]),
        ([*TURNED, asked(300, version=0)], DONE, 350.0, 0, [2]),
        (TURNED, DONE._replace(retrains=DONE.retrains * 2), 350.0, 0, [4]),
        ([*OLD, *FALLEN, *(one._replace(said="b") for one in AFTER[::2]), *AFTER[1::2]], DONE, 350.0, 0, [5, 6]),
        (TURNED, DONE, 350.0, 1, [7]),
    ],
)
def test_each_promise_can_be_broken(turned: list[Asked], facts: Facts, whole_s: float, left: int, broken: list[int]) -> None:
    told = events(facts, turned, Seen(None, 0, {}), 0.0)
    made = promises(turned, facts, quality(turned, half_right), told, not_taken=0, whole_s=whole_s, left_over=left)
    assert [number for number, one in enumerate(made) if not one.is_kept] == broken


def test_the_curve_is_the_share_of_right_answers_among_the_last_ones() -> None:
    assert curve(OLD, 10)[0] == (9, 0.9)
    assert curve(FALLEN, 2)[-1] == (199, 0.5)
    assert curve(OLD[:9], 10) == []


def test_what_happened_is_told_in_its_order_from_the_stores() -> None:
    message = {"heard_at": 1130.0, "labels": {"alertname": "EvergreenDrift"}, "annotations": {"summary": "words moved"}}
    decision = {"at": 1140.0, "alertname": "EvergreenDrift", "reason": "labels"}
    steps = [
        {"step": "collect", "ended_at": 1145.0, "outcome": "done", "detail": "300 labelled texts"},
        {"step": "reproduce", "ended_at": None, "outcome": "running", "detail": ""},
    ]
    told = events(Facts(message, decision, [], steps), TURNED, Seen(138.0, 300, {"train": 150.0}), 1000.0)
    assert [(event.at_s, event.name) for event in told] == [
        (0, "the first message is answered"),
        (100, "the shop sells something new"),
        (130, "people are told"),
        (138, "labels arrive"),
        (140, "a retrain is decided"),
        (145, "collect"),
        (150, "at work"),
        (200, "customers hear the new champion"),
    ]


def test_the_picture_is_drawn_of_a_whole_turn_and_of_one_that_was_cut_off(tmp_path: Path) -> None:
    for turned in (TURNED, OLD[:5]):
        told = events(DONE, turned, Seen(138.0, 300, {"train": 150.0, "evaluate": 180.0}), 0.0)
        picture.draw(turned, told, quality(turned, half_right), tmp_path / "loop.png")
        with Image.open(tmp_path / "loop.png") as drawn:
            assert drawn.width > 1000


# where it turns


def test_only_clocks_and_ports_differ_from_the_params_of_head(params: Params) -> None:
    assert {name for values in QUICK.values() for name in values} == {
        "scrape_s", "evaluate_s", "group_wait_s", "group_interval_s", "poll_s", "flush_s", "settle_s",
    }  # fmt: skip
    before, after = params.model_dump(), with_own_ports(quick(params)).model_dump()
    changed = {(section, key) for section, values in before.items() for key in values if values[key] != after[section][key]}
    assert all(key.endswith("port") or key in QUICK[section] for section, key in changed)
    ports = [value for section in ("serve", "gateway", "alerts") for key, value in after[section].items() if key.endswith("port")]
    assert len(ports) == len(set(ports)) == 10


def test_without_a_packaged_model_it_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make repro"):
        lay_out(tmp_path, tmp_path / "scratch")


def test_when_it_is_stopped_nothing_is_left_of_it(made: Project, tmp_path: Path) -> None:
    """As a person would, with Ctrl-C, once all of it runs."""
    scratch = tmp_path / "loop"
    command = [sys.executable, "-m", "evergreen.loop", "--keep", str(scratch)]
    (made / ".tools").symlink_to(ROOT / ".tools") if not (made / ".tools").exists() else None
    with subprocess.Popen(command, cwd=made.folder, stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout is not None
        for line in loop.stdout:
            if "all of them are ready" in line:
                break
        loop.send_signal(signal.SIGINT)
        said = loop.stdout.read()
        assert loop.wait(timeout=120) == 130
    assert "all that was started has ended" in said
    assert list(processes_with("EVERGREEN_HOME", str(scratch / "live"))) == []


# who plays in it


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Answers every message with `a`, but refuses `no`; keeps what it was sent."""
    heard: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            heard.append((self.path, body))
            if body.get("text") == "no":
                self.send_error(503)
                return
            answer = {"predictions": [{"id": f"id-{body.get('text')}", "label": "a", "version": 1}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()
        thread.join()


def test_customers_send_no_label_and_those_who_label_wait_until_they_are_told(
    gateway: tuple[str, list[tuple[str, dict[str, str]]]],
) -> None:
    url, heard = gateway
    rows = [
        {"text": "old", "unit": "u", "label": "a", "phase": "stable"},
        {"text": "no", "unit": "u", "label": "b", "phase": "drift"},
        {"text": "new", "unit": "u", "label": "b", "phase": "drift"},
        {"text": "later", "unit": "u", "label": "b", "phase": "drift"},
    ]
    with Customers(rows, url, time.monotonic()) as customers, Annotators(customers.asked, url) as people:
        customers.per_s, customers.until = 1000.0, 3
        wait_until(lambda: len(customers.asked) == 3)
        assert [(one.version, one.is_right, one.is_new) for one in customers.asked] == [
            (1, True, False),
            (0, False, True),
            (1, False, True),
        ]
        assert "503" in customers.asked[1].failure
        assert {path for path, _ in heard} == {"/v1/predict"}
        assert all("label" not in body for _, body in heard)
        people.begin()
        wait_until(lambda: sum(people.labelled.values()) == len(ANNOTATORS))
        customers.until = 4
        wait_until(lambda: sum(people.labelled.values()) == 2 * len(ANNOTATORS))
    told = [(body["id"], body["label"], body["source"]) for path, body in heard if path == "/v1/feedback"]
    assert sorted(told) == sorted((f"id-{text}", "b", person) for person in ANNOTATORS for text in ("new", "later"))


class Crowd:
    """Customers and annotators that do nothing."""

    def __init__(self, asked: list[Asked], total: int) -> None:
        self.asked, self.total, self.per_s, self.until = asked, total, 0.0, 0
        self.labelled, self.are_told = {"ana": 7, "ben": 8}, False

    def so_far(self) -> list[Asked]:
        return self.asked

    def begin(self) -> None:
        self.are_told = True


def test_labels_wait_for_the_message_and_the_last_messages_for_the_new_champion(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = Facts(None, None, [], [])
    monkeypatch.setattr("evergreen.loop.turn.read", lambda _place: facts)
    crowd = Crowd([*OLD, *FALLEN], 500)
    turn = Turn(Place(tmp_path, tmp_path, tmp_path, params), crowd, crowd, time.monotonic(), time.time())  # type: ignore[arg-type]
    turn.look()
    assert (crowd.are_told, crowd.per_s, crowd.until) == (False, BRISK_PER_S, 500 - KEPT_FOR_AFTER)
    message = {"heard_at": time.time(), "labels": {"alertname": "EvergreenDrift"}, "annotations": {}}
    facts = Facts(message, None, [], [])
    turn.look()
    assert (crowd.are_told, crowd.per_s) == (True, BRISK_PER_S)
    running = {"state": "running", "progress": "stage train, 3 %", "began_wall": time.time()}
    facts = Facts(message, None, [running], [])
    told = turn.look()
    assert (crowd.until, turn.is_over) == (500 - KEPT_FOR_AFTER, False)
    assert crowd.per_s == pytest.approx((500 - KEPT_FOR_AFTER - 200) / RETRAIN_S, rel=0.1)
    assert {("labels arrive", "two people have labelled 7 messages"), ("at work", "stage train")} <= {
        (event.name, event.detail) for event in told
    }
    facts = Facts(message, None, [running | {"began_wall": time.time() - 2 * RETRAIN_S}], [])
    turn.look()
    assert crowd.per_s == pytest.approx((500 - KEPT_FOR_AFTER - 200) / AT_LEAST_S)  # it takes longer: some are left even then
    facts = Facts(message, None, [running | {"state": "done"}], [])
    turn.look()
    assert (crowd.per_s, crowd.until, turn.is_over) == (BRISK_PER_S, 500, False)
    crowd.asked += AFTER * 3
    assert turn.is_over
    crowd.asked = [*OLD, *FALLEN]
    facts = Facts(message, None, [running | {"state": "refused"}], [])
    turn.look()
    assert turn.is_over


def wait_until(happens: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)
