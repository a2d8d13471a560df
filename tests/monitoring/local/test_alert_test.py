"""`evergreen alerts` sets channels up, sends a test message to each through a real Alertmanager, and tells what became of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
import sqlalchemy as sa
from typer.testing import CliRunner

from evergreen import cli
from monitoring.local.alertmanager_client import post_alert
from monitoring.local.delivery import DeliveryResult, failure
from monitoring.local.services import find_services
from pipeline.errors import EvergreenError
from pipeline.params import Params, load_params
from serving.processes.ports import free_port, free_ports
from state.database import open_state
from state.tables import alerts as received
from tests.conftest import ROOT
from tests.faults.stack import clean_environment
from tests.monitoring.channels.recording import PASSWORD, Hook, MailServer, make_certificate, running

WATCH = """
import sys
from pathlib import Path
from monitoring.local.watch import running_stack
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.params import load_params

def main():
    inbox, receiver = ([sys.executable, "-m", f"monitoring.{name}"] for name in ("inbox", "retrain.receiver"))
    stack = running_stack(
        load_params(), Path(".tools"), find_home() / "alerts", lambda text: None,
        inbox_command=inbox, monitor_command=[], retrain_commands={"receiver": receiver},
    )
    with stack:
        print("ready", flush=True)
        sys.stdin.read()
        raise SystemExit
run_stage(main)
"""
SECRET = "hidden-part"


class Ended(NamedTuple):
    """The end of a command."""

    returncode: int
    stdout: str
    stderr: str


class World(NamedTuple):
    """A project with the programs of `make watch` that alerts pass, and what stands at the other end of its channels."""

    folder: Path
    environment: dict[str, str]
    hook: Hook
    stranger: Hook  # its certificate is trusted by nobody
    mail: MailServer
    old_mail: MailServer  # without TLS
    alertmanager: str

    @property
    def home(self) -> Path:
        return self.folder / "live"

    def evergreen(self, *arguments: str, secret: str = "") -> Ended:
        """Run a command of a person in this project; a secret comes by a file."""
        if secret:
            path = self.folder / "secret"
            path.write_text(secret)
            path.chmod(0o600)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            result = CliRunner().invoke(cli.app, ["alerts", *arguments])
        error = result.exception
        if isinstance(error, EvergreenError):
            return Ended(error.exit_code, result.output, str(error))
        assert error is None or isinstance(error, SystemExit), error
        return Ended(result.exit_code, result.output, "")

    def set_up(self, kind: str, url: str, *options: str) -> None:
        done = self.evergreen(kind, "--url-file", "secret", *options, secret=f"{url}?{SECRET}\n")
        assert done.returncode == 0, done.stderr

    def set_up_mail(self, server: str, *options: str, password: str = PASSWORD, to: str = "ana@example.org") -> None:
        account = ("--user", "evergreen", "--password-file", "secret") if password else ()
        sender = ("--from", "evergreen@example.org")
        done = self.evergreen("email", "--to", to, *sender, "--server", server, *account, *options, secret=password)
        assert done.returncode == 0, done.stderr

    def written(self) -> str:
        """Return every log and configuration."""
        files = [path for path in (self.home / "alerts").iterdir() if path.is_file()]
        return "".join(path.read_text(errors="replace") for path in files if path.suffix in (".log", ".yml", ".json"))


def params_of(world: "World") -> Params:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.folder)
        return load_params()


def write_project(folder: Path, params: Params) -> dict[str, int]:
    """Write a project with free ports; return those of the section `alerts`."""
    names = [name for name in type(params.alerts).model_fields if name.endswith("_port")]
    ports = dict(zip(names, free_ports("127.0.0.1", len(names)), strict=True))
    values = json.loads(params.model_copy(update={"alerts": params.alerts.model_copy(update=ports)}).model_dump_json())
    (folder / "params.yaml").write_text(json.dumps(values))
    (folder / ".tools").symlink_to(ROOT / ".tools")
    return ports


@pytest.fixture(scope="module")
def world(tools: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("project")
    ports = write_project(folder, params)
    trusted, strange = make_certificate(folder / "trusted"), make_certificate(folder / "strange")
    environment = clean_environment() | {
        "EVERGREEN_HOME": str(folder / "live"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SSL_CERT_FILE": str(trusted.public),
    }
    with ExitStack() as stack:
        hook, stranger = Hook(trusted), Hook(strange)
        mail, old_mail = MailServer(trusted), MailServer(trusted, offers_tls=False)
        for server in (hook, stranger, mail, old_mail):
            stack.enter_context(running(server))
        url = f"http://127.0.0.1:{ports['alertmanager_port']}"
        command = [sys.executable, "-c", WATCH]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        assert process.stdout is not None
        assert "ready\n" in process.stdout
        yield World(folder, environment, hook, stranger, mail, old_mail, url)


@pytest.fixture(autouse=True)
def no_channels(request: pytest.FixtureRequest) -> None:
    """Begin each test without channels and messages."""
    if "world" in request.fixturenames:
        world: World = request.getfixturevalue("world")
        (world.home / "alerts/channels.json").unlink(missing_ok=True)
        for server in (world.hook, world.stranger):
            server.bodies.clear()
        world.mail.mails.clear()
        world.old_mail.mails.clear()


def test_slack_gets_one_readable_message_and_the_secret_stays_in_its_file(world: World) -> None:
    world.set_up("slack", world.hook.url("/ok"), "--room", "#on-call")
    done = world.evergreen("test")
    assert (done.returncode, done.stderr) == (0, "")
    assert "✓ slack: delivered, 127.0.0.1" in done.stdout
    (body,) = world.hook.bodies
    (message,) = body["attachments"]
    assert body["channel"] == "#on-call"
    assert message["title"] == "TEST: EvergreenTest"
    assert message["title_link"].startswith("http://127.0.0.1:")
    for text in ("What happened:\n- This is a test: alerts of Evergreen reach channel slack, since 20", "Next: Nothing to do"):
        assert text in message["text"]
    assert SECRET not in world.written()
    assert (world.home / "alerts/secrets/slack").read_text() == world.hook.url(f"/ok?{SECRET}")


def test_teams_gets_a_card_and_a_webhook_alertmanagers_json(world: World) -> None:
    world.set_up("teams", world.hook.url("/ok"))
    world.set_up("webhook", world.hook.url("/ok"))
    done = world.evergreen("test")
    assert done.returncode == 0, done.stderr
    card, plain = world.hook.bodies
    content = card["attachments"][0]["content"]
    texts = [block["inlines"][0]["text"] for block in content["body"]]
    assert (card["type"], content["type"]) == ("message", "AdaptiveCard")
    assert texts[0].startswith("TEST: This is a test")
    assert any(text.startswith("Next: Nothing to do") for text in texts)
    assert plain["version"] == "4"
    assert plain["alerts"][0]["labels"]["channel"] == "webhook"
    assert SECRET not in world.written()


def test_mail_comes_over_tls_with_the_account(world: World) -> None:
    world.set_up_mail(world.mail.address)
    done = world.evergreen("test", "email")
    assert done.returncode == 0, done.stderr
    ((is_tls, has_account, text),) = world.mail.mails
    assert (is_tls, has_account) == (True, True)
    assert "Subject: TEST: EvergreenTest" in text
    assert "This is a test" in text
    assert PASSWORD not in world.written()


def test_a_mail_server_without_tls_gets_mail_only_on_request(world: World) -> None:
    world.set_up_mail(world.old_mail.address, password="")
    done = world.evergreen("test")
    assert done.returncode == 3
    assert "email: refused" in done.stdout
    assert "--no-tls" in done.stdout
    world.set_up_mail(world.old_mail.address, "--no-tls", password="")
    assert world.evergreen("test").returncode == 0
    assert [mail[:2] for mail in world.old_mail.mails] == [(False, False)]


@pytest.mark.parametrize(
    ("kind", "path", "said"),
    [
        ("slack", "/gone", "refused, 127.0.0.1\n  HTTP 404: no_service\n  what to do: the webhook is gone"),
        ("slack", "/busy", "refused, 127.0.0.1\n  HTTP 429: slow down\n"),
        ("slack", "/broken", "refused, 127.0.0.1\n  HTTP 503: down\n"),
        ("teams", "/gone", "refused, 127.0.0.1\n  HTTP 404: no_service\n  what to do: the webhook is gone"),
        ("teams", "/broken", "refused, 127.0.0.1\n  HTTP 503: down\n"),
        ("webhook", "/moved", "refused, 127.0.0.1\n  HTTP 302\n"),
    ],
)
def test_a_refusal_is_told_with_its_status(world: World, kind: str, path: str, said: str) -> None:
    world.set_up(kind, world.hook.url(path))
    done = world.evergreen("test")
    assert done.returncode == 3
    assert f"{kind}: {said}" in done.stdout
    assert "1 of 1 test messages were not delivered" in done.stderr
    assert SECRET not in world.written() + done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["slack", "teams"])
def test_a_host_that_does_not_answer_and_one_that_nobody_trusts_are_not_reached(world: World, kind: str) -> None:
    world.set_up(kind, f"https://127.0.0.1:{free_port()}/ok", "--name", "a-gone")
    world.set_up(kind, world.stranger.url("/ok"), "--name", "b-strange")
    world.set_up(kind, world.hook.url("/ok"), "--name", "c-good")
    done = world.evergreen("test")
    assert done.returncode == 3
    assert "a-gone: not reached" in done.stdout
    assert "nothing listens there" in done.stdout
    assert "b-strange: not reached" in done.stdout
    assert "SSL_CERT_FILE" in done.stdout
    assert "c-good: delivered" in done.stdout
    assert not world.stranger.bodies
    assert SECRET not in world.written() + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"password": "wrong"}, "535 5.7.8 wrong user or password"), ({"to": "ana@elsewhere.org"}, "550 5.1.1 no such user here")],
)
def test_a_refused_account_or_receiver_of_mail_is_told(world: World, changed: dict[str, str], said: str) -> None:
    name = said[:3]  # its own: Alertmanager repeats a failed attempt for ten seconds, with the password of then
    world.set_up_mail(world.mail.address, "--name", name, **changed)
    done = world.evergreen("test")
    assert done.returncode == 3
    assert f"{name}: refused, {changed.get('to', 'ana@example.org')}\n  {said}" in done.stdout
    assert not world.mail.mails


def test_a_mail_server_that_is_not_there_is_not_reached(world: World) -> None:
    world.set_up_mail(f"localhost:{free_port()}")
    done = world.evergreen("test")
    assert "email: not reached" in done.stdout
    assert "nothing listens there" in done.stdout


def test_a_test_reaches_neither_inbox_nor_controller_nor_another_channel(world: World) -> None:
    world.set_up("slack", world.hook.url("/ok"))
    world.set_up("webhook", world.hook.url("/ok"), "--name", "other")
    assert world.evergreen("test", "slack").returncode == 0
    assert len(world.hook.bodies) == 1
    alerts = params_of(world).alerts
    shown = requests.get(f"http://{alerts.host}:{alerts.inbox_port}/messages.json", timeout=10)
    assert shown.ok
    assert "EvergreenTest" not in shown.text
    with open_state(world.home) as engine, engine.connect() as connection:
        assert "EvergreenTest" not in str(connection.execute(sa.select(received)).all())


def test_channels_are_listed_without_secrets_and_removed(world: World) -> None:
    world.set_up("slack", world.hook.url("/ok"))
    shown = world.evergreen("list").stdout
    assert "slack" in shown
    assert "127.0.0.1" in shown
    assert SECRET not in shown
    assert "Alertmanager uses it from now on" in world.evergreen("remove", "slack").stdout
    assert "nobody is notified besides" in world.evergreen("list").stdout
    refused = world.evergreen("test")
    assert (refused.returncode, "no channel is set up" in refused.stderr) == (2, True)
    assert world.evergreen("remove", "slack").returncode == 2


def test_another_homes_alertmanager_on_the_port_is_noticed(world: World, tmp_path: Path) -> None:
    other = world._replace(environment=world.environment | {"EVERGREEN_HOME": str(tmp_path / "home")})
    done = other.evergreen("slack", "--url-file", "secret", secret=f"https://127.0.0.1:9/{SECRET}")
    assert done.returncode == 3
    assert "does not read" in done.stderr


def test_without_make_watch_an_alertmanager_is_started_for_the_test(world: World, params: Params, tmp_path: Path) -> None:
    write_project(tmp_path, params)
    other = world._replace(folder=tmp_path, environment=world.environment | {"EVERGREEN_HOME": str(tmp_path / "live")})
    for kind in ("slack", "teams"):
        other.set_up(kind, world.hook.url("/ok"))
    done = other.evergreen("test")
    assert done.returncode == 0, done.stderr
    assert "make watch does not run" in done.stdout
    assert len(world.hook.bodies) == 2
    assert (other.home / "alerts/alertmanager.yml").stat().st_mode & 0o077 == 0


def test_a_test_that_is_still_alive_when_its_channel_goes_reaches_nobody(world: World) -> None:
    world.set_up("slack", world.hook.url("/gone"))
    labels = {"alertname": "EvergreenTest", "severity": "none", "area": "test", "channel": "slack"}
    post_alert(world.alertmanager, {"labels": labels, "annotations": {"summary": "This is a test"}})
    world.set_up("slack", world.hook.url("/ok"), "--name", "other")
    assert world.evergreen("remove", "slack").returncode == 0
    assert world.evergreen("test", "other").returncode == 0
    assert len(world.hook.bodies) == 1


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ('Post "<redacted>": context deadline exceeded', DeliveryResult("unreached", "context deadline exceeded")),
        ('x/slack[0]: notify retry canceled after 3 attempts: channel "#a": unexpected status code 500: oops', "HTTP 500: oops"),
        ("unexpected status code 404: http://127.0.0.1:8090/relay/a: it answered HTTP 410: gone", "HTTP 410: gone"),
        ("*email.loginAuth auth: 535 5.7.8 bad", "535 5.7.8 bad"),
    ],
)
def test_a_logged_reason_is_understood(logged: str, expected: DeliveryResult | str) -> None:
    assert failure(logged) == (DeliveryResult("refused", expected) if isinstance(expected, str) else expected)


def test_every_program_is_known_to_be_of_its_home(world: World) -> None:
    params, running = params_of(world), ("Prometheus", "Alertmanager", "inbox", "receiver")
    homes = world.home, world.folder / "another"
    ours, theirs = ({service.name: service.owner for service in find_services(params, home)} for home in homes)
    assert {name: ours[name] for name in running} == dict.fromkeys(running, "this home")
    assert {name: theirs[name] for name in running} == dict.fromkeys(running, "another")
    assert ours["monitor"] == ours["console"] == "nobody"
