"""The label queue without scripts: labels, verification, proposals, skips, undo, many at once, and its faults."""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitoring.console.queue.round_index import last_round
from monitoring.console.queue.standing import is_done
from monitoring.console.try_it import neighbours
from monitoring.flywheel.queue.effort import Answered, Effort, effort_of
from monitoring.flywheel.round import FILE, LabelCandidate, Round, write_round
from monitoring.labels.controls import read_controls
from pipeline.output.plain_text import printable_lines
from pipeline.params import Params
from serving.access.tokens import add_token, revoke_tokens
from tests.conftest import ROOT
from tests.hostile_text import HOSTILE as HOSTILE_TEXTS
from tests.monitoring.console.published import publish
from tests.monitoring.console.queue_client import Person, label_queue, labels_in_force, noted_actions, served_home, with_controls
from tests.monitoring.console.rounds import TEXTS, write_queue
from tests.monitoring.console.running_console import running_console
from tests.monitoring.console.test_try_it import HostileConnection, SilentConnection

WRONG = "evg_wrong"
REFUND, TRACK = json.dumps("refund"), json.dumps("track")


@pytest.fixture(autouse=True)
def own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    monkeypatch.setattr(neighbours, "Connection", HostileConnection)


def token(home: Path, name: str, *scopes: str) -> str:
    return add_token(home / "tokens.json", name, scopes or ("label",), datetime.now(UTC))


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
    ana, ben = token(tmp_path, "ana"), token(tmp_path, "ben")
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
        second.log_in(ben, "/label")
        second.open("/label/next")
        assert second.text == TEXTS[0][0]
    assert not is_done({"ana": "refund", "ben": "track"}, 2)
    assert is_done({"ana": "refund", "ben": "track", "cy": "track"}, 2)


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
        command = [sys.executable, "-m", "tests.monitoring.console.dying_console", str(tmp_path), str(changed.gateway.port)]
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


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_a_page_of_another_site_cannot_label(params: Params, tmp_path: Path, origin: str | None) -> None:
    """Even with the right token in the form, which such a page cannot read."""
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=REFUND, origin=origin)
        assert person.status == 403 and "cross_site" in person.page
    assert labels_in_force(tmp_path) == []


def test_a_form_without_its_token_or_with_another_changes_nothing(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person, other = Person(url), Person(url)
        other.open("/label/next")
        (stolen,) = {value for form in other.forms() for name, value in form.fields if name == "form_token"}
        for form_token in ("", "0" * 64, stolen):
            person.open("/label/next")
            for action in ("/label/give", "/label/skip"):
                person.open("/label/next")
                person.send(action, label=REFUND, form_token=form_token)
                assert person.status == 403 and "Nothing was changed" in person.page
        nobody = Person(url)
        nobody.post("/label/give", [("label", REFUND), ("form_token", stolen)])
        assert nobody.status == 403
    assert labels_in_force(tmp_path) == [] and noted_actions(tmp_path) == []


def test_with_tokens_a_login_is_needed_and_its_cookie_is_for_this_site_and_no_script(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    good, weak = token(tmp_path, "ana"), token(tmp_path, "web-shop", "predict")
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/cluster/1")
        assert person.address == "/login?to=/label/cluster/1"
        before = person.cookies().get_dict()
        person.send("/login", token=WRONG)
        assert person.status == 401 and "This is not a valid token" in person.page and "evg_wrong" not in person.page
        person.send("/login", token=good)
        assert person.address == "/label/cluster/1" and "You are <strong>ana</strong>" in person.page
        (cookie,) = person.cookies()
        assert cookie.value not in before.values() and good not in str(cookie.value)
        assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "strict"
        person.open("/label/next")
        person.send("/label/give", label=REFUND)
        assert person.text == TEXTS[1][0]
        person.send("/logout")
        assert person.address == "/login"
        assert Person(url).open("/label").count("<h1>Log in</h1>") == 1
        weakling = Person(url)
        weakling.log_in(weak, "/label")
        assert weakling.status == 403 and "lacks the scope label" in weakling.page
        stranger = Person(url)
        stranger.open("/login?to=//evil.example/label")
        assert ("to", "/label") in stranger.forms()[0].fields
    assert labels_in_force(tmp_path) == [("ana", "refund")]


def test_behind_https_the_cookie_stays_there(params: Params, tmp_path: Path) -> None:
    good = token(tmp_path, "ana")
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/login")
        person.send("/login", token=good, origin=url.replace("http:", "https:"))
        assert [cookie.secure for cookie in person.cookies() if cookie.secure] == [True]


def test_a_token_that_is_removed_ends_the_session_at_the_next_action(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    good = token(tmp_path, "ana")
    token(tmp_path, "ben")
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.log_in(good, "/label")
        person.open("/label/next")
        revoke_tokens(tmp_path / "tokens.json", "ana")
        person.send("/label/give", label=REFUND)
        assert person.address == "/login?to=/label&ended=1" and "no longer valid" in person.page
        person.open("/label")
        assert person.address == "/login?to=/label"
    assert labels_in_force(tmp_path) == []


def test_a_session_that_nobody_uses_ends(params: Params, tmp_path: Path) -> None:
    good = token(tmp_path, "ana")
    write_queue(tmp_path)
    short = params.model_copy(update={"alerts": params.alerts.model_copy(update={"console_session_s": 0.001})})
    with label_queue(short, tmp_path) as url:
        person = Person(url)
        person.log_in(good, "/label")
        assert person.address == "/login?to=/label"


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


def test_time_between_showing_and_answering_is_counted_once() -> None:
    """Texts that are labelled together share it, a pause counts two minutes, and skipped texts cost time too."""
    single = [Answered("ana", "label", 0.0, 10.0), Answered("ana", "skip", 10.0, 16.0)]
    assert effort_of(single) == Effort(1, 16.0)
    together = [Answered("ana", "label", 20.0, 50.0)] * 10
    assert effort_of([*single, *together]) == Effort(11, 46.0)
    assert effort_of([Answered("ana", "label", 0.0, 9999.0)]) == Effort(1, 120.0)
    side_by_side = [Answered(name, "verify", 0.0, 8.0) for name in ("ana", "ben")]
    assert effort_of(side_by_side) == Effort(2, 16.0)
    assert effort_of([]).seconds_each == 0
