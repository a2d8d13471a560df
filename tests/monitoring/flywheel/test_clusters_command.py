"""`evergreen clusters`: the table, the texts of a cluster, a proposal; hostile texts reach no terminal."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evergreen.cli import app
from monitoring.flywheel.proposals import read_proposals
from monitoring.flywheel.queue.round import MARGIN, Cluster, LabelCandidate, Round, write_round
from pipeline.errors import InputError
from state.database import open_state
from tests.hostile_text import CONTROLS, HOSTILE

TEXTS = [text for text in HOSTILE if text.encode("utf-8", "replace").decode("utf-8") == text]  # the log can hold no others


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    rows = [
        LabelCandidate(f"t{n}", f"p{n}", text, 1.0, 3, "refund", None, 0.5, 0.1, None, (MARGIN,), 7, 1, is_sure=False)
        for n, text in enumerate(TEXTS)
    ]
    cluster = Cluster(7, ("scooter", "\x1b[2J"), ("t0", "t1"), len(rows), 0.25, 0.1, 0.4, 1.5, 1.0, 2.0, (1.0, 0.0))
    write_round(tmp_path, Round(1_790_000_000.0, 3, rows, [cluster], 8))
    return tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["clusters", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("arguments", [(), ("--all",), ("--json",), ("show", "7"), ("show", "7", "--json")])
def test_every_view_is_plain_text(home: Path, arguments: tuple[str, ...]) -> None:
    output = run(*arguments)
    assert "scooter" in output or "refund" in output
    assert not set(output) & (set(CONTROLS) - {"\n"})


def test_json_has_no_vectors_and_one_object_a_line(home: Path) -> None:
    (line,) = run("--json").splitlines()
    assert {"id", "words", "examples"} <= json.loads(line).keys()
    assert "centroid" not in json.loads(line)
    assert len(run("show", "7", "--json").splitlines()) == len(TEXTS)


def test_a_proposed_intent_is_stored_once_and_an_unknown_cluster_is_refused(home: Path) -> None:
    for _ in range(2):
        assert "cluster 7" in run("propose", "7", " scooter_repair ")
    with open_state(home) as engine, engine.begin() as connection:
        assert read_proposals(connection) == {7: ["scooter_repair"]}
    with pytest.raises(InputError, match="no such cluster"):
        run("propose", "9", "x")
    with pytest.raises(InputError, match="readable"):
        run("propose", "7", "\u200b")


def test_without_a_round_the_command_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no round has been made yet"):
        run()
