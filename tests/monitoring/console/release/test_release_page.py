"""The page Release without scripts: where a release stands, its evidence, what broke, its past, and what people wish."""

import re
import time
from html import unescape
from pathlib import Path

import pytest
import sqlalchemy as sa

from monitoring.release.verdicts.shadow import shadow_thresholds
from pipeline.params import Params
from state.database import open_state
from state.tables import release_runs, retrain_steps
from tests.monitoring.console.published import HOSTILE, publish
from tests.monitoring.console.queue.queue_client import Person, served_home, token
from tests.monitoring.console.release.stories import HOSTILE_EXAMPLES, canary, count_answers, evidence_of, rolled_back
from tests.monitoring.console.releases import write_release
from tests.monitoring.console.running_console import running_console
from tests.monitoring.release.rows import release_row

pytestmark = pytest.mark.usefixtures("own_database")


def words(page: str) -> str:
    """Return the text of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.split("<main")[1].split("</main>")[0])).split())


def wish_of(home: Path) -> str:
    with open_state(home) as engine, engine.connect() as connection:
        return str(connection.execute(sa.select(release_runs.c.wish)).scalar_one())


def add_run(home: Path, **columns: object) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(release_runs.insert(), release_row(**columns))  # type: ignore[arg-type]


def test_before_the_first_release_the_page_says_how_one_begins(params: Params, tmp_path: Path) -> None:
    with running_console(params, tmp_path, now=None) as url:
        assert "No gradual release has run yet" in Person(url).open("/release")


def test_a_shadow_shows_texts_labels_and_evidence(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], evidence=evidence_of(params.release))
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        shown = words(person.open("/release"))
    assert "version 2 against version 1" in shown and "It runs." in shown
    assert "Labels used 20 of 150" in shown and "Texts that wait for a label 11" in shown
    assert "Shadow now: 20 of 150 labels" in shown and "1% of units not begun" in shown
    assert "Units that it answers 0%" in shown
    threshold = f"{shadow_thresholds(params.release).worse:.2f}"
    assert re.search(rf"Worse less accurate than the champion -0\.7 points no loss that is proved [\d.]+ {threshold}", shown)
    assert "Errors" not in shown  # guardrails begin with the canary


def test_a_canary_shows_its_step_its_arms_and_every_guardrail(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], **canary(params.release))
    count_answers(tmp_path)
    with running_console(params, tmp_path, now=None) as url:
        shown = words(Person(url).open("/release"))
    assert "Units that it answers 25%" in shown
    assert "5% of units done" in shown and "25% of units now: 100 of 200 answers" in shown and "50% of units not begun" in shown
    assert re.search(r"Errors fails to answer more often than the baseline 1\.0% at most 1\.0% [\d.]+ [\d.]+", shown)
    assert "Memory its process grows 1,065 MiB at most 1,536 MiB 0 5 looks" in shown
    assert re.search(r"the new version 400 4 0 3\d\.?\d* ms 4\d\.?\d* ms", shown)
    assert "wait for a label" not in shown


def test_a_roll_back_shows_what_broke_and_ten_texts(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], **rolled_back(params.release), ended_at=time.time() - 5)
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        shown = words(person.open("/release"))
        assert words(person.open("/release/7")) == shown
        assert person.open("/release/99") and person.status == 404
        assert person.open("/release/x") and person.status == 404
    assert "Version 2 was rolled back." in shown and "25% of units ended here" in shown
    assert "Slow answers reached slower than the baseline's 95th percentile 100.0%" in shown
    assert shown.count("I have waited") == 10 and "people: track" in shown
    assert "Past releases" in shown and "Pause" not in shown


def test_the_release_that_runs_is_shown_above_those_that_ended(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], **rolled_back(params.release), ended_at=time.time() - 500)
    add_run(tmp_path, retrain_id=8, version=3)
    add_run(tmp_path, retrain_id=9, version=4, stage="ended", outcome="promoted", reason="good", ended_at=time.time())
    with running_console(params, tmp_path, now=None) as url:
        shown = words(Person(url).open("/release"))
    assert "version 3 against version 1" in shown
    assert shown.index("4 against 1 promoted") < shown.index("2 against 1 rolled back")


def test_people_pause_go_on_and_end_a_release(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], evidence=evidence_of(params.release))
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        person.open("/release")
        assert "paused" in words(person.send("/release/pause")).lower() and wish_of(tmp_path) == "pause"
        person.send("/release/resume")
        assert wish_of(tmp_path) == "none"
        old = Person(url)
        old.open("/release")
        assert "A person has chosen to end this release" in person.send("/release/abort") and wish_of(tmp_path) == "abort"
        assert "Nothing was changed" in old.send("/release/pause") and old.status == 409
        assert wish_of(tmp_path) == "abort"


def test_a_form_of_an_old_page_does_not_touch_the_next_release(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [])
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        person.open("/release")
        with open_state(tmp_path) as engine, engine.begin() as connection:
            connection.execute(release_runs.update().values(stage="ended", outcome="refused", reason="worse", ended_at=1.0))
            connection.execute(release_runs.insert(), release_row(retrain_id=8, version=3))
        assert "Nothing was changed" in person.send("/release/abort")
    with open_state(tmp_path) as engine, engine.connect() as connection:
        assert set(connection.execute(sa.select(release_runs.c.wish)).scalars()) == {"none"}


def test_only_an_administrator_wishes_and_only_from_a_page_of_ours(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [])
    tokens = {"ana": token(tmp_path, "ana"), "root": token(tmp_path, "root", "admin")}
    with served_home(params, tmp_path) as served, running_console(served, tmp_path, now=None) as url:
        ana, root = Person(url), Person(url)
        assert "log in" in words(ana.open("/release"))
        ana.log_in(tokens["ana"], "/release")
        assert "scope admin" in words(ana.page)
        form_token = next(value for form in ana.forms() for name, value in form.fields if name == "form_token")
        refused = ana.post("/release/abort", [("form_token", form_token), ("retrain", "7")])
        assert ana.status == 403 and "lacks the scope admin" in words(refused)
        root.log_in(tokens["root"], "/release")
        root.post("/release/abort", [("form_token", form_token), ("retrain", "7")])
        assert root.status == 403 and wish_of(tmp_path) == "none"
        root.open("/release")
        root.send("/release/abort", origin="http://evil.example")
        assert root.status == 403 and wish_of(tmp_path) == "none"
        root.open("/release")
        for number in ("", "x", "1e400", "nan"):
            fields = [(name, value) for name, value in root.forms()[-1].fields if name != "retrain"]
            root.post("/release/abort", [*fields, ("retrain", number)])
            assert root.status == 409, number
            root.open("/release")
        root.send("/release/abort")
    assert wish_of(tmp_path) == "abort"


def test_hostile_texts_and_reasons_are_text(params: Params, tmp_path: Path) -> None:
    columns = rolled_back(params.release) | {"examples": HOSTILE_EXAMPLES, "reason": HOSTILE}
    write_release(tmp_path, [], **columns, ended_at=time.time())
    with running_console(params, tmp_path, now=None) as url:
        person = Person(url)
        for path in ("/release", "/live", "/live?range=7d"):
            page = person.open(path)
            assert person.status == 200 and "<script>alert" not in page and "\u202e" not in page


def test_the_timeline_tells_when_each_stage_began(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], **canary(params.release))
    step = {"retrain_id": 7, "attempt": 1, "fence": 1, "ended_at": None, "outcome": "running", "detail": ""}
    with open_state(tmp_path) as engine, engine.begin() as connection:
        for name, ago in (("gate", 200), ("shadow", 100), ("canary", 50)):
            connection.execute(retrain_steps.insert(), step | {"step": name, "began_at": time.time() - ago})
        connection.execute(retrain_steps.insert(), step | {"step": "canary", "attempt": 2, "began_at": time.time() - 20})
    with running_console(params, tmp_path, now=None) as url:
        live = words(Person(url).open("/live"))
    assert live.count("Releases version 2 answers copies") == 1
    assert live.count("Releases version 2 answers its first callers") == 1  # a resumed step begins once
    assert "Releases version 2 is being released, from" in live


def test_the_timeline_and_the_page_of_the_model_lead_to_the_release(params: Params, tmp_path: Path) -> None:
    write_release(tmp_path, [], **rolled_back(params.release), ended_at=time.time() - 5)
    with served_home(params, tmp_path) as served, running_console(served, tmp_path, now=None) as url:
        publish(tmp_path, 2)
        person = Person(url)
        live = person.open("/live")
        assert 'href="/release/7"' in live and "version 2 was rolled back" in live
        assert "rolled back: answers slower" in words(person.open("/model/2"))
        assert "Its release" not in person.open("/model/1")
