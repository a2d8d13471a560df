"""Faults of the label queue: killed, raced, hostile, outdated, away, and very long."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monitoring.console.queue.round_index import last_round
from monitoring.console.try_it import neighbours
from monitoring.flywheel.queue.round import FILE, LabelCandidate, Round, write_round
from pipeline.output.plain_text import printable_lines
from pipeline.params import Params
from tests.hostile_text import HOSTILE as HOSTILE_TEXTS
from tests.monitoring.console.published import publish
from tests.monitoring.console.queue.queue_client import (
    Person,
    label_queue,
    labels_in_force,
    noted_actions,
    served_home,
    token,
    with_controls,
)
from tests.monitoring.console.queue.rounds import TEXTS, write_queue
from tests.monitoring.console.running_console import running_console
from tests.monitoring.console.test_try_it import SilentConnection

pytestmark = pytest.mark.usefixtures("own_database")
REFUND, TRACK = json.dumps("refund"), json.dumps("track")


def test_two_people_who_answer_the_same_text_at_once_lose_nothing(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    tokens = {name: token(tmp_path, name) for name in ("ana", "ben")}
    labels = {"ana": REFUND, "ben": TRACK}
    with label_queue(params, tmp_path) as url:
        people = {name: Person(url) for name in tokens}
        for name, person in people.items():
            person.log_in(tokens[name], "/label")
            person.open("/label/next")
            assert person.text == TEXTS[0][0]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: people[name].send("/label/give", label=labels[name]), people))
        assert {person.text for person in people.values()} == {TEXTS[1][0]}
    assert sorted(labels_in_force(tmp_path)) == [("ana", "refund"), ("ben", "track")]


def test_a_console_that_is_killed_between_label_and_note_loses_and_doubles_nothing(params: Params, tmp_path: Path) -> None:
    """The process dies when the gateway has the label and the table of actions has not."""
    write_queue(tmp_path)
    with served_home(with_controls(params, 0), tmp_path) as changed:
        command = [sys.executable, "-m", "tests.monitoring.console.queue.dying_console", str(tmp_path), str(changed.gateway.port)]
        killed = subprocess.run(command, timeout=300, check=False)
        assert killed.returncode == -9
        assert labels_in_force(tmp_path) == [("local", "refund")] and noted_actions(tmp_path) == []
        with running_console(changed, tmp_path, now=None) as url:
            person = Person(url)
            person.open("/label/next")
            assert person.text == TEXTS[1][0]
            person.send("/label/give", label=TRACK)
            candidate = last_round(tmp_path)
            assert candidate is not None
            person.open(f"/label/text/{candidate.round.candidates[0].prediction_id}")
            assert "You said" in person.page
            person.send("/label/give", label=REFUND)
    assert labels_in_force(tmp_path) == [("local", "refund"), ("local", "track")]
    assert noted_actions(tmp_path) == [("label", "track", True), ("label", "refund", True)]


def test_a_form_of_before_a_restart_is_still_good(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with served_home(with_controls(params, 0), tmp_path) as changed:
        with running_console(changed, tmp_path, now=None) as url:
            person = Person(url)
            person.open("/label/next")
        # the same port again, as after a restart by its supervisor: cookies belong to it
        port = int(url.rpartition(":")[2])
        with running_console(changed, tmp_path, now=None, port=port) as again:
            assert again == url
            person.send("/label/give", label=REFUND)
            assert person.text == TEXTS[1][0]
    assert labels_in_force(tmp_path) == [("local", "refund")]


def test_hostile_texts_and_labels_are_text_in_every_view(params: Params, tmp_path: Path) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE_TEXTS]
    made = write_queue(tmp_path, [(text, 1) for text in texts])
    hostile = [
        candidate._replace(label=text[:200].replace("\0", "0"), runner_up=text[:150], second_label=text[:100])
        for candidate, text in zip(made.candidates, texts, strict=True)
    ]
    (cluster,) = made.clusters
    write_round(tmp_path, made._replace(candidates=hostile, clusters=[cluster._replace(words=tuple(texts[:30]))]))
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        pages = [person.open(path) for path in ("/label", "/label/cluster/1", "/label/cluster/1?page=2&ticked")]
        pages += [person.open(f"/label/text/{candidate.prediction_id}") for candidate in hostile]
        for page in pages:
            assert person.status == 200
            assert "<script>alert" not in page and "<img" not in page and "\x1b" not in page and "\u202e" not in page
        assert printable_lines("\u202egnp.exe") in person.open("/label")
        target = next(candidate for candidate in hostile if "\u202egnp" in candidate.text)
        person.open(f"/label/text/{target.prediction_id}")
        form = next(form for form in person.forms() if form.action == "/label/give")
        person.post("/label/give", [*form.fields, next(button for button in form.buttons if button[0] == "label")])
    assert labels_in_force(tmp_path) == [("local", target.label)]  # as it is, not as it is shown


def test_before_the_first_round_and_with_a_damaged_one_the_page_says_what_to_do(params: Params, tmp_path: Path) -> None:
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        for path in ("/label", "/label/next", "/label/cluster/1", "/label/text/abc"):
            assert "There is no round yet" in person.open(path) and ".venv/bin/evergreen clusters" in person.page
        write_queue(tmp_path)
        (tmp_path / FILE).write_bytes(b"PAR1 half a file")
        assert "There is no round yet" in person.open("/label") and person.status == 200


def test_a_round_of_another_version_says_so_and_its_labels_count(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path, version=7)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        assert "This round is of version 7, and version 1 serves now" in person.open("/label")
        person.open("/label/next")
        person.send("/label/give", label=REFUND)
    assert labels_in_force(tmp_path) == [("local", "refund")]


def test_a_text_of_an_earlier_round_is_not_labelled_in_the_dark(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        write_queue(tmp_path, TEXTS[3:])
        person.send("/label/give", label=REFUND)
        assert person.status == 409 and "not in the last round any more" in person.page
    assert labels_in_force(tmp_path) == []


def test_without_the_gateway_nothing_is_stored_and_the_page_says_how_to_start_it(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with served_home(with_controls(params, 0), tmp_path) as changed:
        away = changed.model_copy(update={"gateway": changed.gateway.model_copy(update={"port": 9})})
    with running_console(away, tmp_path, now=None) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=REFUND)
        assert person.text == TEXTS[0][0] and "The gateway does not answer" in person.page and "make serve" in person.page
        person.open("/label/cluster/1?ticked")
        person.send("/label/bulk", label=REFUND)
        assert "0 of 3 texts have the label now" in person.page
    assert labels_in_force(tmp_path) == [] and noted_actions(tmp_path) == []


def test_without_triton_a_text_is_shown_without_near_texts(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "Connection", SilentConnection)
    publish(tmp_path)
    write_queue(tmp_path)
    with running_console(with_controls(params, 0), tmp_path, now=None) as url:
        person = Person(url)
        assert "Triton gave no vector of this text" in person.open("/label/next")
        assert person.text == TEXTS[0][0]


def test_a_hundred_thousand_candidates_are_shown_page_by_page(params: Params, tmp_path: Path) -> None:
    made = write_queue(tmp_path, [("text", 1)])
    (candidate,) = made.candidates
    many = [numbered(candidate, number) for number in range(100_000)]
    clusters = [made.clusters[0]._replace(id=number, size=1000) for number in range(100)]
    write_round(tmp_path, Round(**{**made._asdict(), "candidates": many, "clusters": clusters}))
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        person.open("/label")  # reads the file
        began = time.process_time()
        for path in ("/label", "/label/cluster/7", "/label/cluster/7?page=19", "/label/next?mode=verify"):
            page = person.open(path)
            assert person.status == 200 and len(page) < 300_000, (path, len(page))
        took_s = time.process_time() - began
        assert page.count('class="tick"') <= 50
    print(f"four pages of 100,000 candidates: {took_s:.2f} s of CPU, client included")


def numbered(candidate: LabelCandidate, number: int) -> LabelCandidate:
    return candidate._replace(text_id=f"{number:x}", prediction_id=f"{number:x}", text=f"text {number}", cluster=number % 100)


def test_without_the_database_a_page_says_what_to_do(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_queue(tmp_path)
    monkeypatch.setenv("EVERGREEN_STATE_URL", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        assert "The state database does not answer" in person.open("/label") and person.status == 503
        assert "evergreen doctor" in person.page and person.open("/live").count("<h1") == 1
