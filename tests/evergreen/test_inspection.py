"""What `status` advises, and how sure an answer reads."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from evergreen.inspection import describe_abstention, next_commands, status, why
from pipeline.abstention import Abstention
from pipeline.errors import InputError
from pipeline.output.shares import percent
from pipeline.params import Params
from serving.processes.health import health
from state.database import open_state
from tests.conftest import ROOT
from tests.http_servers import serving_in_thread
from tests.state.old_schema import downgrade


@pytest.mark.parametrize(
    ("running", "has_champion", "first", "never"),
    [
        ((), False, "make repro", "make serve"),
        ((), True, "make serve", "make repro"),
        (("gateway",), True, "make serve", "make repro"),  # a half that died is started again
        (("gateway", "Triton"), True, '.venv/bin/evergreen ask "…"', "make serve"),
        (("gateway", "Triton", "monitor"), True, '.venv/bin/evergreen ask "…"', "make watch"),
    ],
)
def test_status_never_advises_to_start_what_runs(running: tuple[str, ...], has_champion: bool, first: str, never: str) -> None:
    advised = next_commands(running, has_champion=has_champion)
    assert next(iter(advised)) == first
    assert never not in advised


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.9985, "99.8%"), (0.9951, "99.5%"), (0.99999, "over 99.9%"), (1.0, "100%"), (0.91, "91%"), (0.0, "0%"), (0.004, "0.4%")],
)
def test_an_answer_that_is_not_certain_is_not_100_percent_sure(share: float, shown: str) -> None:
    assert percent(share) == shown


@contextmanager
def serving_another_clone(home: Path) -> Iterator[int]:
    """Run what looks like the gateway of this home; yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(health("gateway", home)).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    with serving_in_thread(server):
        yield server.server_port


def test_what_another_clone_runs_on_our_ports_is_not_claimed(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))

    def shown(port: int) -> str:
        gateway = params.gateway.model_copy(update={"port": port})
        monkeypatch.setattr("pipeline.params.load_params", lambda: params.model_copy(update={"gateway": gateway}))
        status()
        return " ".join(capsys.readouterr().out.split())

    with serving_another_clone(tmp_path / "another") as port:
        text = shown(port)
    assert "✓ gateway" not in text and "! gateway" in text
    assert f"gateway: 127.0.0.1:{port} is used by another project or program" in text
    assert "change gateway.port in params.yaml" in text
    with serving_another_clone(tmp_path / "home") as port:
        assert "✓ gateway" in shown(port)


def test_a_database_that_is_not_migrated_yet_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))

    def shown() -> str:
        with pytest.raises(InputError):
            why("EvergreenDrift")
        status()
        return " ".join(capsys.readouterr().out.split())

    with open_state(tmp_path) as engine:
        assert "earlier release" not in shown()
        downgrade(engine, "0006")
        text = shown()
        assert text.count("of an earlier release: nothing is read from") == 2
        assert "gate_verdicts" in text and "make serve and make watch migrate it" in text


def test_the_rule_of_a_version_says_what_it_is_expected_to_do_unless_the_version_is_too_old_to_know() -> None:
    words = "abstains below confidence 0.700, from at most 12% of texts like the test rows: a person instead of a label"
    assert describe_abstention(Abstention(0.7, "a person", 0.12)) == words
    assert describe_abstention(Abstention(0.7, "")) == "abstains below confidence 0.700: null instead of a label"
