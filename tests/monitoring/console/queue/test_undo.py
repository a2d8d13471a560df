"""Undo takes back what the page names, gives the label before again, and knows when a new round has come."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from monitoring.console.queue import giving
from monitoring.flywheel.queue.round import write_round
from pipeline.errors import InputError
from pipeline.params import Params
from serving.gateway_client import Reply
from tests.monitoring.console.queue.queue_client import Person, ShownForm, label_queue, labels_in_force, noted_actions
from tests.monitoring.console.queue.rounds import TEXTS, write_queue

pytestmark = pytest.mark.usefixtures("own_database")
REFUND, TRACK = json.dumps("refund"), json.dumps("track")


def undo_form(person: Person) -> ShownForm:
    return next(form for form in person.forms() if form.action == "/label/undo")


def new_round(home: Path, texts: tuple[tuple[str, int], ...]) -> None:
    write_round(home, write_queue(home, texts)._replace(made_at=time.time()))


def test_an_undo_form_of_before_and_one_that_is_sent_twice_take_nothing_else_back(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=REFUND)
        first = undo_form(person)
        for _ in range(2):
            person.send("/label/give", label=REFUND)
        last = undo_form(person)
        person.post("/label/undo", first.fields)
        assert person.address == "/label" and len(labels_in_force(tmp_path)) == 3
        for _ in range(2):
            person.post("/label/undo", last.fields)
            assert person.status == 200 and len(labels_in_force(tmp_path)) == 2
        person.post("/label/undo", [field for field in first.fields if field[0] != "last_at"])  # names no action
        assert len(labels_in_force(tmp_path)) == 2


@pytest.mark.parametrize("before", [(REFUND, TRACK), (TRACK, REFUND), (REFUND,)])
def test_undo_gives_the_label_before_again(params: Params, tmp_path: Path, before: tuple[str, ...]) -> None:
    made = write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        for label in (*before, REFUND):
            person.open(f"/label/text/{made.candidates[0].prediction_id}")
            person.send("/label/give", label=label)
        for label in reversed(before):
            person.send("/label/undo")
            assert labels_in_force(tmp_path)[-1] == ("local", json.loads(label))
        person.send("/label/undo")
        assert labels_in_force(tmp_path) == []


@pytest.mark.parametrize("path", ["/label/next", "/label/next?cluster=1", "/label/cluster/1?ticked"])
def test_undo_after_a_new_round_leads_to_the_queue_and_is_offered_no_more(params: Params, tmp_path: Path, path: str) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open(path)
        person.send("/label/bulk" if "ticked" in path else "/label/give", label=REFUND)
        form = undo_form(person)
        new_round(tmp_path, TEXTS[3:])
        person.open("/label")
        assert "Undo" not in person.page
        for _ in range(2):
            person.post("/label/undo", form.fields)
            assert person.status == 200 and person.address == "/label"
    assert labels_in_force(tmp_path) == []


def test_a_console_that_is_killed_between_texts_that_are_labelled_together_can_undo_them(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_queue(tmp_path)
    give, asked = giving.give_label, iter(range(3))

    def give_two(gateway: str, id: str, label: str, headers: Mapping[str, str]) -> Reply:
        if next(asked) == 2:
            raise InputError("the console", "is killed", "start it again")
        return give(gateway, id, label, headers)

    monkeypatch.setattr(giving, "give_label", give_two)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/cluster/2?ticked")
        person.send("/label/bulk", label=TRACK)
        assert person.status == 503 and len(labels_in_force(tmp_path)) == 2
        person.open("/label/cluster/2")
        assert "2 texts are" in person.page
        person.send("/label/undo")
        assert "3 open texts" in person.page and labels_in_force(tmp_path) == []
    assert noted_actions(tmp_path) == [("label", "track", False)] * 2


def test_ticked_texts_that_a_new_round_has_left_out_are_counted(params: Params, tmp_path: Path) -> None:
    made = write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        for kept, words in ((5, "2 of 3 texts have the label now. 1 of the ticked texts is not"), (3, "This cluster is not")):
            write_round(tmp_path, made)
            person.open("/label/cluster/2")
            form = next(form for form in person.forms() if form.action == "/label/bulk")
            ticks = [("id", candidate.prediction_id) for candidate in made.candidates[3:]]
            clusters = [cluster for cluster in made.clusters if kept > 3 or cluster.id == 1]
            write_round(tmp_path, made._replace(candidates=made.candidates[:kept], clusters=clusters))
            person.post("/label/bulk", [*form.fields, *ticks, ("label", TRACK)])
            assert words in person.page and "in the last round any more" in person.page
    assert labels_in_force(tmp_path) == [("local", "track")] * 2
