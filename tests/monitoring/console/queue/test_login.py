"""Login at the console, and forms that only its own pages can send."""

import json
from pathlib import Path

import pytest
from starlette.routing import Route

from monitoring.console.app import create_app
from monitoring.pages.metrics import PageMetrics
from pipeline.params import Params
from serving.access.tokens import revoke_tokens
from tests.conftest import ROOT
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

pytestmark = pytest.mark.usefixtures("own_database")
WRONG = "evg_wrong"
REFUND, TRACK = json.dumps("refund"), json.dumps("track")


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
                assert '<a href="/label">Load the page</a>' in person.page  # to load it again would send the form again
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
        assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "lax"
        person.open("/label/next")
        person.send("/label/give", label=REFUND)
        assert person.text == TEXTS[1][0]
        person.send("/logout")
        assert person.address == "/login"
        assert Person(url).open("/label").count("<h1>Log in</h1>") == 1
        weakling = Person(url)
        weakling.log_in(weak, "/label")
        assert weakling.status == 403 and "lacks the scope label" in weakling.page
        weakling.log_in(good, "/label")  # from the page that says so
        assert weakling.address == "/label"
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


def test_no_form_of_any_page_is_taken_from_another_site_or_without_its_secret(params: Params, tmp_path: Path) -> None:
    """The cookie comes with links from other sites, so each route that changes something has to refuse by itself."""
    app = create_app(params, tmp_path, lambda: 0.0, PageMetrics())
    paths = [route.path for route in app.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    assert {"/label/give", "/label/undo", "/disputes/settle", "/login", "/logout", "/try/correction"} <= set(paths)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/login")
        for path in paths:
            for origin in ("http://evil.example", "null"):
                person.post(path, [("label", REFUND)], origin=origin)
                assert person.status == 403 and "cross_site" in person.page, path
            person.post(path, [("label", REFUND)])
            takes_forms = not path.startswith("/try/")
            assert person.status == (403 if takes_forms else 415), path
    assert labels_in_force(tmp_path) == [] and noted_actions(tmp_path) == []


def test_an_answer_of_a_lost_session_leads_to_the_login_and_then_to_the_same_text(params: Params, tmp_path: Path) -> None:
    write_queue(tmp_path)
    good = token(tmp_path, "ana")
    with served_home(with_controls(params, 0), tmp_path) as changed:
        with running_console(changed, tmp_path, now=None) as url:
            person = Person(url)
            person.log_in(good, "/label")
            person.open("/label/next")
        with running_console(changed, tmp_path, now=None, port=int(url.rpartition(":")[2])):  # which knows no session
            person.send("/label/give", label=REFUND)
            assert person.address == "/login?to=/label" and person.status == 200
            assert labels_in_force(tmp_path) == [] and noted_actions(tmp_path) == []
            person.send("/login", token=good)
            assert person.address == "/label"
            person.open("/label/next")
            assert person.text == TEXTS[0][0]
    assert "An answer that you send after that is not stored" in (ROOT / "docs/console.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("label", ["[" * 50_000, '"\\ud800"', '{"a": 1}', "1" * 5000])
def test_a_field_that_is_no_label_is_refused_and_no_fault(params: Params, tmp_path: Path, label: str) -> None:
    write_queue(tmp_path)
    with label_queue(params, tmp_path) as url:
        person = Person(url)
        person.open("/label/next")
        person.send("/label/give", label=label)
        assert person.status == 422 and "Choose one, or type a name" in person.page
    assert labels_in_force(tmp_path) == []
