"""Texts of a release come first, without any model's answer, one label each, and stop when the release has enough."""

import json
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from monitoring.release.evidence import ReleaseEvidence
from monitoring.release.looks import LogWatch
from monitoring.release.runs import running_run
from pipeline.params import Params
from state.database import open_state
from state.tables import queue_actions, release_runs
from tests.monitoring.console.published import LABELS
from tests.monitoring.console.queue.queue_client import Person, label_queue, labels_in_force, token
from tests.monitoring.console.queue.rounds import TEXTS, write_queue
from tests.monitoring.console.releases import COPIED, write_release

pytestmark = pytest.mark.usefixtures("own_database")
DIFFERING = [text for text, label, other in COPIED if label != other]
REFUND, TRACK = json.dumps("refund"), json.dumps("track")


def with_labels(params: Params, labels: int) -> Params:
    """Return params with this budget of a release."""
    return params.model_copy(update={"release": params.release.model_copy(update={"labels": labels})})


def test_texts_of_the_release_come_before_the_round_in_order_of_arrival(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    write_release(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label")
        assert "A release waits for 3 labels" in person.page and "9 open" in person.page
        person.open("/label/next")
        shown = []
        for _ in DIFFERING:
            shown.append(person.text)
            person.send("/label/give", label=REFUND)
        assert shown == DIFFERING
        assert person.text == TEXTS[0][0] and "46% sure" in person.page
    assert labels_in_force(tmp_path) == [("local", "refund")] * 3
    with open_state(tmp_path) as engine, engine.connect() as connection:
        assert set(connection.execute(sa.select(queue_actions.c.cluster)).scalars()) == {None}


def test_no_answer_of_a_model_is_shown_or_preselected(params: Params, tmp_path: Path) -> None:
    ids = write_release(tmp_path, [("hm", "track", "refund"), ("aha", "refund", "track")])
    with label_queue(params, tmp_path) as url:
        person, pages = Person(url), []
        for id in ids:
            person.open(f"/label/text/{id}")
            give = next(form for form in person.forms() if form.action == "/label/give" and form.buttons[0][0] == "label")
            assert [json.loads(label) for _, label in give.buttons] == sorted(LABELS)
            assert "sure" not in person.page.split("<article")[1].split("</article>")[0]
            pages.append((person.page, person.text, id))
    (first, first_text, first_id), (second, second_text, second_id) = pages
    moment = r'name="shown_at" value="[\d.]+"'
    same = [
        re.sub(moment, "", page.replace(id, "ID").replace(f">{text}<", "><"))
        for page, text, id in ((first, first_text, first_id), (second, second_text, second_id))
    ]
    assert same[0] == same[1]  # the answers were swapped, and nothing on the page has changed


def test_a_text_of_the_release_is_not_shown_with_answers_anywhere_else(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    write_release(tmp_path, [(TEXTS[5][0], "track", "refund"), (TEXTS[3][0], "track", "refund")])
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/cluster/2")
        assert TEXTS[3][0] not in person.page and TEXTS[4][0] in person.page
        person.open("/label/next?mode=verify")
        assert "Nothing is left for you to verify" in person.page
        person.open("/label/next?cluster=2")
        assert person.text == TEXTS[4][0]


def test_a_release_asks_before_the_first_round(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label")
        assert "A release waits for 3 labels" in person.page
        person.open("/label/next")
        assert person.text == DIFFERING[0]
        person.send("/label/give", typed="refnd")
        assert person.status == 422 and "refund" in person.page
        person.send("/label/give", typed="refund")
        assert person.text == DIFFERING[1]
        person.send("/label/undo")
        assert person.text == DIFFERING[0]
    assert labels_in_force(tmp_path) == []


def test_a_label_is_given_once_and_a_skipped_text_is_offered_to_another(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path)
    tokens = {name: token(tmp_path, name) for name in ("ana", "bob")}
    with label_queue(params, tmp_path) as url:
        ana, bob = Person(url), Person(url)
        for name, person in (("ana", ana), ("bob", bob)):
            person.log_in(tokens[name])
            person.open("/label/next")
        assert [ana.text, bob.text] == DIFFERING[:2]  # two people are not asked the same text at the same time
        bob.send("/label/give", label=REFUND)
        assert bob.text == DIFFERING[2]
        ana.send("/label/skip")
        assert ana.text == DIFFERING[2]  # which bob is looking at, and nothing else is left for her
        bob.send("/label/give", label=TRACK)
        assert bob.text == DIFFERING[0]  # which ana has skipped
        bob.send("/label/skip")
        assert "Nothing is left for you" in bob.page
        ana.open("/label/next")
        assert "Nothing is left for you" in ana.page


def test_the_page_asks_for_what_the_evidence_waits_for_and_labels_reach_it(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path)

    def look() -> ReleaseEvidence:
        with open_state(tmp_path) as engine:
            with engine.connect() as connection:
                run = running_run(connection)
            assert run is not None
            return LogWatch(params, tmp_path, run).look(engine.connect, run, ReleaseEvidence())

    assert look().waiting == len(DIFFERING)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=REFUND)  # as the challenger says
        person.send("/label/give", typed="label 3")  # as the champion says
        person.send("/label/skip")  # nobody else uses the queue
        assert "Nothing is left for you" in person.page
    seen = look()
    assert (seen.waiting, seen.compared, seen.shadow.pairs) == (
        0,
        len(COPIED),
        len(COPIED) - 1,
    )  # a skipped text counts as nothing
    assert (seen.shadow.gained, seen.shadow.lost) == (1, 1)


@pytest.mark.parametrize("columns", [{"stage": "canary"}, {"wish": "abort"}, {"stage": "ended", "outcome": "refused"}])
def test_nothing_is_asked_after_the_shadow_stage(params: Params, tmp_path: Path, columns: dict[str, str]) -> None:
    write_release(tmp_path, **columns)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label")
        assert "There is no round yet" in person.page


def test_no_more_labels_are_asked_than_the_release_uses(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path)
    with label_queue(with_labels(params, 2), tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=REFUND)
        person.send("/label/give", label=REFUND)
        assert "Nothing is left for you" in person.page


def test_a_new_release_asks_for_its_own_texts(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        with open_state(tmp_path) as engine, engine.begin() as connection:
            connection.execute(release_runs.update().values(stage="ended", outcome="aborted"))
        person.send("/label/give", label=REFUND)
        assert person.status == 409 and "not in the last round any more" in person.page
        person.open("/label/next")
        assert "There is no round yet" in person.page
