"""The label queue without scripts: labels, verification, proposals, skips, undo, many at once, control texts."""

import json
import re
from pathlib import Path

import pytest

from monitoring.flywheel.queue.progress import is_agreed
from monitoring.labels.controls import read_controls
from pipeline.params import Params
from tests.conftest import ROOT
from tests.monitoring.console.queue.queue_client import (
    Person,
    label_queue,
    labels_in_force,
    noted_actions,
    token,
)
from tests.monitoring.console.queue.rounds import TEXTS, write_queue
from tests.monitoring.console.running_console import running_console

pytestmark = pytest.mark.usefixtures("own_database")
REFUND, TRACK = json.dumps("refund"), json.dumps("track")


def test_texts_come_in_the_order_of_the_queue_and_every_answer_is_stored_once(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label")
        assert "About 100 labels are wanted" in person.page and "parcel shop" in person.page
        person.open("/label/next")
        assert person.text == TEXTS[0][0]
        assert "46% sure" in person.page and "the second model" in person.page
        person.send("/label/give", label=REFUND)
        assert person.text == TEXTS[1][0]
        person.send("/label/give", typed="Label-3")
        person.send("/label/skip")
        person.send("/label/give", proposed="  buy voucher ")
        person.open("/label/next?mode=verify")
        assert person.text == TEXTS[5][0] and "Yes, it is" in person.page
        person.send("/label/give", verify="yes")
        assert "Nothing is left for you to verify" in person.page
        person.open("/label/next")
        assert person.text == TEXTS[4][0] and "named in this cluster" in person.page
        assert "<strong>4</strong> of about 100 labels" in person.page
    assert labels_in_force(tmp_path) == [
        ("local", "refund"),
        ("local", "label 3"),
        ("local", "buy voucher"),
        ("local", "track"),
    ]
    assert noted_actions(tmp_path) == [
        ("label", "refund", True),
        ("propose", "label 3", True),  # the stand-in of a gateway knows two labels
        ("skip", None, True),
        ("propose", "buy voucher", True),
        ("verify", "track", True),
    ]


def test_control_texts_come_among_the_others_look_like_them_and_can_be_undone(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # whose corpus they are from
    write_queue(tmp_path)
    shown: dict[str, tuple[object, ...]] = {}
    with label_queue(params, tmp_path, control_share=0.5) as url:
        person = Person(url)
        person.open("/label/next")
        while "Nothing is left" not in person.page:
            shown[person.text] = looks(person)
            person.send("/label/give", label=REFUND)
        controls = set(read_controls(tmp_path).values())
        assert len(controls) >= 3 and shown.keys() == {text for text, _ in TEXTS} | controls
        assert {look for text, look in shown.items() if text in controls} <= {
            look for text, look in shown.items() if text not in controls
        }
        for _ in shown:
            person.send("/label/undo")
        assert person.text == next(iter(shown))
    assert len(noted_actions(tmp_path)) == len(shown) and labels_in_force(tmp_path) == []


def looks(person: Person) -> tuple[object, ...]:
    """Return what a page shows apart from texts, labels and numbers."""
    forms = [(form.action, tuple(name for name, _ in form.fields)) for form in person.forms() if form.action != "/label/undo"]
    headings = re.findall(r"<(?:dt|h1|h2)[^>]*>([^<]*)", person.page)
    return tuple(forms), tuple(headings), "Yes, it is" in person.page


def test_a_form_that_is_sent_twice_is_one_label_and_one_action(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        (form,) = [form for form in person.forms() if form.action == "/label/give"][:1]
        for label in (REFUND, REFUND, TRACK):
            person.post("/label/give", [*form.fields, ("label", label)])
    assert labels_in_force(tmp_path) == [("local", "refund"), ("local", "track")]  # two opinions: the last one counts
    assert noted_actions(tmp_path) == [("label", "track", True)]


def test_undo_takes_back_the_last_answer_and_a_label_given_again_counts(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=REFUND)
        person.send("/label/skip")
        person.send("/label/undo")
        assert person.text == TEXTS[1][0]
        person.send("/label/undo")
        assert person.text == TEXTS[0][0] and labels_in_force(tmp_path) == []
        assert person.forms()[0].action != "/label/undo"  # there is nothing left to undo
        person.send("/label/give", label=REFUND)
        assert person.text == TEXTS[1][0]
    assert labels_in_force(tmp_path) == [("local", "refund")]
    assert [is_in_force for _, _, is_in_force in noted_actions(tmp_path)] == [False, False, True]


def test_many_texts_get_one_label_at_once_and_undo_takes_all_back(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/cluster/2")
        person.send("/label/bulk", label=TRACK)
        assert "No text is ticked" in person.page
        person.open("/label/cluster/2?ticked")
        person.send("/label/bulk", by="typed", typed="delivery hiccup")
        assert "There is no label “delivery hiccup”" in person.page and labels_in_force(tmp_path) == []
        person.open("/label/cluster/2?ticked")
        person.send("/label/bulk", by="enter", typed="track", proposed="voucher")
        assert labels_in_force(tmp_path) == []  # which one was meant?
        person.open("/label/cluster/2?ticked")
        person.send("/label/bulk", label=TRACK)
        assert "Nothing is left for you in this cluster" in person.page and "3 texts are" in person.page
        assert labels_in_force(tmp_path) == [("local", "track")] * 3
        person.send("/label/undo")
        assert "3 open texts" in person.page and labels_in_force(tmp_path) == []


def test_a_typed_label_that_does_not_exist_is_a_question_and_no_label(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", typed="refnd")
        assert person.status == 422 and "There is no label “refnd”" in person.page and ">refund</bdi></button>" in person.page
        for name in ("", "x" * 201, "bell\x07"):
            person.open("/label/next")
            person.send("/label/give", typed=name)
            assert person.status == 422
    assert labels_in_force(tmp_path) == []


def test_a_text_is_shown_to_a_second_person_only_when_it_needs_one(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    ana, ben, cy = (token(tmp_path, name) for name in ("ana", "ben", "cy"))
    with label_queue(params, tmp_path) as url:
        first, second = Person(url), Person(url)
        first.log_in(ana, "/label")
        second.log_in(ben, "/label")
        first.open("/label/next")
        first.send("/label/give", label=REFUND)
        second.open("/label/next")
        assert second.text == TEXTS[1][0]
    two = params.labels.model_copy(update={"new_text_people": 2, "control_share": 0.0})
    needs_two = params.model_copy(update={"labels": two})
    with running_console(needs_two, tmp_path, now=None) as url:
        second = Person(url)
        second.log_in(cy, "/label")
        second.open("/label/next")
        assert second.text == TEXTS[0][0]
    assert not is_agreed({"ana": "refund", "ben": "track"}, 2)
    assert is_agreed({"ana": "refund", "ben": "track", "cy": "track"}, 2)
