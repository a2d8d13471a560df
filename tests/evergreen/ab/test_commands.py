"""The commands of A/B tests in a home without Triton: plan, start, status and stop, and what each refuses."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest

from evergreen import cli
from monitoring.release.ab.tests_table import newest_tests
from monitoring.release.runs import ReleaseRun, begin_run
from pipeline.errors import EXIT_BAD_INPUT, EXIT_REFUSED
from pipeline.tracking.store import connect
from serving.release.routing import read_routes, set_routing, unit_rank
from state.database import open_state
from state.tables import ab_tests, outcomes
from tests.conftest import ROOT
from tests.monitoring.console.published import publish
from tests.monitoring.homes import Gateway
from tests.monitoring.release.ab.ab_story import answered, report


class Ended(NamedTuple):
    code: int
    output: str


Run = Callable[..., Ended]


@pytest.fixture
def home(mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home with a champion and a challenger of the same labels; commands run beside it, where no Triton answers."""
    monkeypatch.delenv("EVERGREEN_STATE_URL", raising=False)
    home, project = tmp_path / "home", tmp_path / "project"
    for version in (1, 2):
        publish(home, version)
    shutil.copy(mlflow_store, home)
    project.mkdir()
    shutil.copy(ROOT / "params.yaml", project)
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init",), ("add", "--all"), (*author, "commit", "--message", "start")):
        subprocess.run(["git", *command], cwd=project, check=True, capture_output=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    monkeypatch.setenv("EVERGREEN_TRITON_HOST", "127.0.0.2")
    return home


@pytest.fixture
def evergreen(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["evergreen", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), "".join(capsys.readouterr()))

    return run


def weight(home: Path) -> float:
    with open_state(home) as engine, engine.connect() as connection:
        return read_routes(connection).challenger_weight


def test_a_test_runs_from_start_to_stop_and_gives_the_share_back(home: Path, evergreen: Run) -> None:
    started = evergreen("ab", "start", "2", "--share", "0.4", "--force")
    assert started.code == 0
    assert "A is version 1, B is version 2" in started.output
    assert weight(home) == 0.4
    assert "not yet" in evergreen("ab", "status").output
    stopped = evergreen("ab", "stop")
    assert (stopped.code, weight(home)) == (0, 0.0)
    assert "A/B test 1, ended" in stopped.output
    assert "MLflow run" in stopped.output
    connect(home)
    (run,) = mlflow.search_runs(
        experiment_names=["evergreen"], filter_string="tags.`ab.verdict` = 'not yet'", output_format="list"
    )
    assert run.data.params["ab.challenger"] == "2"
    assert run.info.status == "FINISHED"
    assert "A is version 1" in run.data.tags["mlflow.note.content"]


def test_a_share_that_the_challenger_has_is_taken_and_kept(home: Path, evergreen: Run) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        set_routing(connection, challenger_weight=0.25, shadow_share=0.5)
    assert "B answers 25% of units" in evergreen("ab", "start").output
    evergreen("ab", "stop")
    assert weight(home) == 0.25


def test_the_first_verdict_that_a_status_reaches_stands(home: Path, evergreen: Run) -> None:
    evergreen("ab", "start", "--force")
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(ab_tests.update().values(began_at=ab_tests.c.began_at - 100))
        test = newest_tests(connection, 1)[0]
        units = [f"unit-{number}" for number in range(400)]
        is_b = [unit_rank(test.salt, unit) < test.weight for unit in units]
        rows = [answered(1 + of_b, unit=unit, at=test.began_at + 50) for unit, of_b in zip(units, is_b, strict=True)]
        Gateway(home, "gateway").write(rows)
        report(connection, [(row.id, float(row.version == 2)) for row in rows], at=test.began_at + 60)
    assert "B is better" in evergreen("ab", "status").output
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(outcomes.update().values(value=1 - outcomes.c.value))
    shown = json.loads(evergreen("ab", "status", "--json").output)
    assert (shown["test"]["verdict"]["answer"], shown["look"]["answer"]) == ("B", "A")
    stopped = evergreen("ab", "stop")
    assert "B is better" in stopped.output
    assert "evergreen publish 2 (make B champion)" in stopped.output


def test_a_release_and_another_test_are_refused_and_the_share_stays(home: Path, evergreen: Run) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        running = ReleaseRun(7, 2, 1, "s", "shadow", 0, "none", {}, 1.0, 1.0, None, None, None, None, [], None)
        begin_run(connection, running, lambda _connection: None)
    refused = evergreen("ab", "start", "--force")
    assert (refused.code, weight(home)) == (EXIT_REFUSED, 0.0)
    assert "a gradual release of version 2 runs" in refused.output


def test_a_second_start_is_refused(home: Path, evergreen: Run) -> None:
    evergreen("ab", "start", "--force", "--share", "0.3")
    again = evergreen("ab", "start", "--force", "--share", "0.6")
    assert (again.code, weight(home)) == (EXIT_REFUSED, 0.3)
    assert "evergreen ab stop" in again.output


def test_a_version_that_the_gate_has_not_judged_needs_force(home: Path, evergreen: Run) -> None:
    refused = evergreen("ab", "start")
    assert (refused.code, weight(home)) == (EXIT_REFUSED, 0.0)
    with open_state(home) as engine, engine.connect() as connection:
        assert newest_tests(connection, 1) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("start", "3"), "the challenger is version 2"),
        (("start", "--share", "1"), "is not between 0 and 1"),
        (("start", "--share", "nan"), "is not between 0 and 1"),
        (("start", "--margin", "0"), "no positive number"),
        (("start", "--margin", "inf"), "no positive number"),
        (("start", "--feedback", "--caller", "shop"), "leave out --caller"),
        (("status",), "there has been no A/B test"),
        (("stop",), "no test is running"),
        (("plan",), "give --baseline for shares"),
        (("plan", "--baseline", "0.3", "--deviation", "2"), "give --baseline for shares"),
        (("plan", "--baseline", "1.3"), "is not between 0 and 1"),
        (("plan", "--deviation", "-2"), "no positive number"),
        (("plan", "--deviation", "2", "--units-per-day", "0"), "no positive number"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str, home: Path, evergreen: Run) -> None:
    refused = evergreen("ab", *arguments)
    assert refused.code == EXIT_BAD_INPUT, refused.output
    assert said in refused.output
    assert weight(home) == 0.0


def test_without_a_challenger_there_is_nothing_to_compare(home: Path, evergreen: Run) -> None:
    with open_state(home) as engine, engine.begin() as connection:
        connection.exec_driver_sql("UPDATE releases SET role = 'retired' WHERE version = 2")
    refused = evergreen("ab", "start")
    assert refused.code == EXIT_BAD_INPUT
    assert "there is no challenger" in refused.output


def test_a_plan_names_units_and_days(evergreen: Run) -> None:
    planned = evergreen("ab", "plan", "--baseline", "0.3", "--margin", "0.05", "--units-per-day", "500")
    assert planned.code == 0
    assert "looks may come at any time" in planned.output
    assert "once, at its end" in " ".join(planned.output.split())
