"""The console script on a real Triton."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

from evergreen import cli
from monitoring.local.services import find_services
from pipeline.params import load_params
from serving.processes.ports import free_ports
from serving.triton.server import with_free_ports
from tests.conftest import ROOT, Project

EVERGREEN = (str(ROOT / ".venv/bin/python"), "-m", "evergreen.cli")


@pytest.fixture(scope="module")
def published(made: Project, mlflow_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return environment variables of a home in which the made model is champion; no test moves it.

    Its path has characters that mean something to shells and URLs, and a proxy that does not answer is set.
    """
    home = tmp_path_factory.mktemp("published") / 'my $HOME\'s "hömé" (1)'
    home.mkdir()
    shutil.copy(mlflow_store, home)
    home.chmod(0o755)  # as an earlier version left it
    environment = {"EVERGREEN_HOME": str(home), "http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    output = made.must("python", "-m", "evergreen.cli", "publish", "--first", **environment)
    assert "version 1, champion" in output
    return environment


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    output: str
    errors: str


Command = Callable[..., Ended]


@pytest.fixture
def evergreen(
    made: Project, published: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return the console script, as a function that runs in this process, in the made project with its champion."""
    monkeypatch.chdir(made.folder)

    def run(*arguments: str, **environment: str) -> Ended:
        for name, value in (published | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["evergreen", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_publish_first_leaves_a_champion_alone(evergreen: Command) -> None:
    assert "was published before as version 1, champion" in evergreen("publish", "--first").output


def test_ask_starts_a_server_answers_and_leaves_no_process(made: Project, published: dict[str, str]) -> None:
    output = made.must("python", "-m", "evergreen.cli", "ask", "--start", "where is my parcel?", "card declined", **published)
    assert "track_order" in output
    assert "payment_failed" in output
    assert "version 1, by Triton" in output
    home = Path(published["EVERGREEN_HOME"])
    assert not [p for p in psutil.process_iter(["name"]) if p.info["name"] == "tritonserver" and is_of(p, home)]
    assert [str(path) for path in (home, *home.rglob("*")) if path.lstat().st_mode & 0o077 and not path.is_symlink()] == []


def is_of(process: psutil.Process, home: Path) -> bool:
    """Return whether a process has its log in this home."""
    try:
        return any(str(home) in file.path for file in process.open_files())
    except psutil.Error:
        return False


def test_ask_without_a_server_says_how_to_start_one(evergreen: Command) -> None:
    ended = evergreen("ask", "hello")
    assert ended.code == 3
    assert "make serve" in ended.errors


def test_ask_without_a_champion_says_what_to_run(evergreen: Command, tmp_path: Path) -> None:
    ended = evergreen("ask", "hello", EVERGREEN_HOME=str(tmp_path))
    assert ended.code == 3
    assert "make repro" in ended.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_serve_runs_until_it_is_stopped_and_ends_all_its_processes(
    made: Project, published: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    values = yaml.safe_load((made / "params.yaml").read_text())
    values["serve"] = with_free_ports(made.params.serve).model_dump()
    values["gateway"]["port"], values["alerts"]["console_port"] = free_ports("127.0.0.1", 2)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    environment = {**os.environ, **published, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*EVERGREEN, "serve"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert any("version 1 answers" in line for line in server.stdout)
        port, console_port = values["gateway"]["port"], values["alerts"]["console_port"]
        url = f"http://127.0.0.1:{port}/v1/predict"
        with urlopen(Request(url, b'{"text": "card declined"}', {"content-type": "application/json"})) as answer:
            assert json.load(answer)["predictions"][0]["label"] == "payment_failed"
        if number == signal.SIGTERM:  # clients, of one of the servers
            assert_ask_answers(folder, environment)
            assert_front_page_leads_to_console(port, console_port)
        for home, owner in ((Path(published["EVERGREEN_HOME"]), "this home"), (tmp_path / "another", "another")):
            found = {service.name: service.owner for service in find_services(load_params(folder / "params.yaml"), home)}
            assert [found[name] for name in ("gateway", "Triton", "console")] == [owner] * 3
        children = psutil.Process(server.pid).children(recursive=True)
        assert children
        server.send_signal(number)
        assert server.wait(timeout=60) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        server.stdout.read()
    deadline = time.monotonic() + 60
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if child.is_running()]


def assert_ask_answers(folder: Path, environment: dict[str, str]) -> None:
    texts = ["card declined"] * 70  # more than one batch
    client = subprocess.run([*EVERGREEN, "ask", *texts], cwd=folder, env=environment, capture_output=True, text=True)
    assert client.stdout.count("payment_failed") == 70, client.stderr


def assert_front_page_leads_to_console(port: int, console_port: int) -> None:
    with urlopen(f"http://127.0.0.1:{port}/") as page:
        assert page.url.startswith(f"http://127.0.0.1:{console_port}/")
        assert "Evergreen" in page.read().decode()


def test_the_error_for_a_version_that_was_never_published_lists_those_that_were(evergreen: Command) -> None:
    ended = evergreen("publish", "7")
    assert ended.code == 2
    assert "there are: 1 (champion)" in ended.errors


def test_there_is_nothing_to_roll_back_to_at_first(evergreen: Command) -> None:
    ended = evergreen("rollback")
    assert ended.code == 2
    assert "no previous champion" in ended.errors


def test_there_is_no_challenger_to_route_to_at_first(evergreen: Command) -> None:
    ended = evergreen("route", "--weight", "0.5")
    assert ended.code == 2
    assert "no challenger" in ended.errors


def test_status_names_the_champion_its_scores_and_the_next_commands(evergreen: Command, published: dict[str, str]) -> None:
    output = evergreen("status").output
    for part in ("version 1", "fine-tuned", "frozen encoder", "make serve", "evergreen try", published["EVERGREEN_HOME"]):
        assert part in output


def test_help_is_fast() -> None:
    began = time.monotonic()
    subprocess.run([str(ROOT / ".venv/bin/evergreen"), "--help"], check=True, capture_output=True)
    assert time.monotonic() - began < 5
