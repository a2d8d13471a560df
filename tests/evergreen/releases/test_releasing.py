"""Publish, route and rollback on a real release: what callers would notice is said first, and takes --force."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from evergreen import cli, releasing
from monitoring.retrain.gate.recorded_verdicts import record_verdict
from monitoring.retrain.gate.verdict import Verdict
from pipeline.errors import EXIT_REFUSED
from serving.release.manifest import MANIFEST, describe_files, package_digest
from serving.release.publish import publish
from serving.release.release_table import roles
from state.database import open_state
from tests.conftest import ROOT, Project


class Ended(NamedTuple):
    """The exit code of a command and all that it printed."""

    code: int
    output: str


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def champion_home(made: Project, mlflow_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home in which the made model is champion; tests work on copies."""
    home = tmp_path_factory.mktemp("releasing")
    shutil.copy(mlflow_store, home)
    publish(made / "artifacts/package", made / "dvc.lock", "evergreen", home)
    return home


@pytest.fixture
def home(champion_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(champion_home, tmp_path / "home"))


@pytest.fixture
def evergreen(made: Project, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return the console script, as a function that runs in this process, with the made package and this home."""
    project = home.with_name("project")
    project.mkdir()
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copy(made / "dvc.lock", project)
    (project / "artifacts").symlink_to(made / "artifacts")
    monkeypatch.chdir(project)
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    monkeypatch.setenv("EVERGREEN_TRITON_HOST", "127.0.0.2")  # where no Triton answers

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["evergreen", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), "".join(capsys.readouterr()))

    return run


def repackaged(made: Project, folder: Path, *labels: str) -> Path:
    """Return a copy of the made package with these labels, or with its own labels and another content."""
    package = Path(shutil.copytree(made / "artifacts/package", folder / "package"))
    if labels:
        (package / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    else:
        (package / "warmup/another").write_text("hello")
    (package / MANIFEST).write_text(json.dumps(json.loads((package / MANIFEST).read_text()) | describe_files(package)))
    return package


def released(home: Path) -> dict[str, int]:
    with open_state(home) as engine, engine.begin() as connection:
        return {str(role): version for role, version in roles(connection).items()}


def test_other_labels_take_force_at_every_step_and_callers_are_told(
    evergreen: Run, made: Project, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`publish 2` replaced all labels without a word."""
    monkeypatch.setattr(releasing, "PACKAGE", repackaged(made, tmp_path, "track_order", "return_item", "damaged_item", "invoice"))

    def refused(*arguments: str) -> None:
        before = released(home)
        ended = evergreen(*arguments)
        assert ended.code == EXIT_REFUSED, ended.output
        assert "callers never get these 1 labels again: `payment_failed`" in ended.output
        assert "callers get 1 labels that no answer had before: `invoice`" in ended.output
        assert f".venv/bin/evergreen {' '.join(arguments)} --force" in ended.output
        assert released(home) == before

    refused("publish")
    forced = evergreen("publish", "--force")
    assert forced.code == 0, forced.output
    assert "never get these 1 labels again" in forced.output
    assert released(home) == {"champion": 1, "challenger": 2}
    refused("route", "--weight", "0.5")
    assert evergreen("route", "--shadow", "0.5").code == 0  # callers get no answer of a copy
    refused("publish", "2")
    assert evergreen("publish", "2", "--force").code == 0
    assert released(home) == {"champion": 2, "previous": 1}
    returned = evergreen("rollback")
    assert returned.code == 0, returned.output
    assert "callers never get these 1 labels again: `invoice`" in returned.output
    assert released(home) == {"champion": 1}
    assert "to make it champion again: .venv/bin/evergreen publish 2" in returned.output


def test_a_package_that_the_gate_refused_takes_force(
    evergreen: Run, made: Project, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = repackaged(made, tmp_path)
    monkeypatch.setattr(releasing, "PACKAGE", package)
    with open_state(home) as engine, engine.begin() as connection:
        record_verdict(connection, Verdict(False, ("worse than the champion on 90 old rows",), {}), package_digest(package))
    for arguments in (("publish",), ("publish", "--force"), ("publish", "2"), ("route", "--weight", "0.1")):
        ended = evergreen(*arguments)
        assert ended.code == (0 if "--force" in arguments else EXIT_REFUSED), ended.output
        assert "the gate refused it on " in ended.output
        assert "worse than the champion on 90 old rows" in ended.output


def test_a_model_that_the_gate_has_not_judged_becomes_challenger_and_answers_nobody(
    evergreen: Run, made: Project, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = repackaged(made, tmp_path)
    monkeypatch.setattr(releasing, "PACKAGE", package)
    for arguments in (("publish",), ("route", "--weight", "0.1"), ("publish", "2")):
        ended = evergreen(*arguments)
        assert ended.code == (0 if arguments == ("publish",) else EXIT_REFUSED), ended.output
        assert "the gate has not judged this model" in ended.output
        if arguments == ("publish",):
            assert "next: .venv/bin/evergreen gate (judge it), then .venv/bin/evergreen publish 2" in ended.output
        assert released(home) == {"champion": 1, "challenger": 2}
    with open_state(home) as engine, engine.begin() as connection:
        record_verdict(connection, Verdict(True, ("not worse",), {}), package_digest(package))
    assert evergreen("publish", "2").code == 0
    assert evergreen("publish", "1").code == 0  # it was champion until now
    assert released(home) == {"champion": 1, "previous": 2}


def test_publishing_the_champion_again_asks_for_nothing(evergreen: Run, home: Path) -> None:
    ended = evergreen("publish")
    assert ended.code == 0
    assert "was published before as version 1, champion" in ended.output
    assert "gate" not in ended.output
