"""Prepare the intruder's targets: a stack with tokens, the webhook receiver and the inbox; inspect what all of them store."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from pipeline.params import Params
from serving.access.tokens import add_token, revoke_tokens, tokens_path
from serving.processes.ports import free_ports
from state.database import open_state
from state.tables import alerts, feedback, jobs
from tests.faults.child import running_module
from tests.faults.stack import Installation, clean_environment, programs, wait_until
from tests.faults.watching import alert_environment

BEFORE_THE_APP = (
    "malformed",
    "tunnel",
    "head_size",
    "head_time",
    "pipeline",
    "connections",
)  # refusals before the app
SMALL = 64 * 2**20  # larger files are models
FORGERS = 8  # enough to stay below the rate limit together
CALLERS = {
    "shop": ["predict"],
    "curious": ["predict"],
    "intruder": ["predict"],
    "anna": ["predict", "label"],
    "former": ["admin"],
    **{f"forger-{n}": ["label"] for n in range(FORGERS)},
}


class Targets(NamedTuple):
    """Hold the services' ports, the callers' tokens by name, and Alertmanager's token."""

    installation: Installation
    tokens: dict[str, str]
    receiver: int = 0  # 0: not running
    inbox: int = 0
    webhook_token: str = ""

    @property
    def forgers(self) -> list[str]:
        """Return the forgers' tokens, which have the scope label."""
        return [self.tokens[f"forger-{n}"] for n in range(FORGERS)]

    @property
    def gateway(self) -> int:
        return self.installation.params.gateway.port

    @property
    def triton(self) -> int:
        return self.installation.params.serve.http_port


def with_alert_ports(params: Params) -> Params:
    """Return params with free ports for the receiver and the inbox."""
    receiver, inbox = free_ports(params.alerts.host, 2)
    return params.model_copy(update={"alerts": params.alerts.model_copy(update={"receiver_port": receiver, "inbox_port": inbox})})


def with_tokens(installation: Installation) -> Targets:
    """Make the callers' tokens while the gateway runs, and wait until it requires one; revoke that of `former`."""
    path = tokens_path(installation.home)
    tokens = {name: add_token(path, name, scopes, datetime.now(UTC)) for name, scopes in CALLERS.items()}
    revoke_tokens(path, "former")
    wait_until(lambda: call(installation.params.gateway.port, "/v1/routes").status == 401, 30)
    return Targets(installation, tokens)


@contextmanager
def alert_services(targets: Targets) -> Iterator[tuple[Targets, list[psutil.Process]]]:
    """Run the webhook receiver and the inbox of this home; yield the targets and the processes."""
    installation = targets.installation
    environment = alert_environment.Environment(installation.params, installation.folder, installation.home)
    ports = installation.params.alerts
    variables = clean_environment() | {"EVERGREEN_HOME": str(installation.home)}
    with (
        alert_environment.running_receiver(environment) as receiver,
        running_module("monitoring.inbox", installation.folder / "inbox.log", variables) as inbox,
    ):
        wait_until(lambda: alert_environment.is_up(f"http://127.0.0.1:{ports.inbox_port}/healthz"), 60)
        running = targets._replace(receiver=ports.receiver_port, inbox=ports.inbox_port, webhook_token=environment.token)
        yield running, [psutil.Process(receiver.pid), psutil.Process(inbox.pid)]


class Reply(NamedTuple):
    """Hold a status and the JSON body."""

    status: int
    content: dict[str, Any]


def call(port: int, path: str, token: str = "", **values: object) -> Reply:
    """Send a request as a well-behaved client does: GET without values, POST with them."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    body = json.dumps(values).encode() if values else None
    try:
        with urlopen(Request(f"http://127.0.0.1:{port}{path}", body, headers), timeout=30) as page:
            return Reply(page.status, json.loads(page.read() or b"{}"))
    except HTTPError as error:
        error.read()
        return Reply(error.code, {})


class RefusalCounts(NamedTuple):
    """Hold the gateway's counts of refusals."""

    by_code: float  # requests answered with 4xx or 5xx
    before: float  # refused before the app saw the request

    @property
    def whole(self) -> float:
        return self.by_code + self.before


def read_refusals(targets: Targets) -> RefusalCounts:
    """Read the refusals from the gateway's metrics."""
    with urlopen(f"http://127.0.0.1:{targets.gateway}/metrics", timeout=10) as page:
        text = page.read().decode()
    by_code = before = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "evergreen_requests_total" and int(sample.labels["code"]) >= 400:
                by_code += sample.value
            if sample.name == "evergreen_refused_total" and sample.labels["reason"] in BEFORE_THE_APP:
                before += sample.value
    return RefusalCounts(by_code, before)


def stored_rows(installation: Installation) -> dict[str, int]:
    """Count the rows that callers can write."""
    with open_state(installation.home) as engine, engine.connect() as connection:
        counts = {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in (feedback, jobs, alerts)
        }
    messages = installation.home / "inbox" / "messages.json"
    return counts | {"messages": len(json.loads(messages.read_text())["messages"]) if messages.exists() else 0}


def secrets_of(targets: Targets) -> set[str]:
    """Return every secret of the installation: the tokens, and the contents of key files."""
    files = [path for path in targets.installation.home.rglob("*") if path.is_file() and path.suffix in (".key", ".token")]
    keys = {path.read_bytes().strip().decode("ascii", "ignore") for path in files if path.stat().st_size < 4096}
    return {secret for secret in {*targets.tokens.values(), targets.webhook_token, *keys} if len(secret) >= 16}


def leaks(targets: Targets, process: subprocess.Popen[bytes]) -> list[str]:
    """Return the files and process arguments that contain a secret; a file that is itself a secret does not count."""
    secrets = {secret.encode() for secret in secrets_of(targets)}
    places = []
    for path in targets.installation.folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < SMALL:
            content = path.read_bytes()
            if content.strip() not in secrets and any(secret in content for secret in secrets):
                places.append(str(path.relative_to(targets.installation.folder)))
    for name, children in programs(process).items():
        lines = [" ".join(child.cmdline()).encode() for child in children]
        places += [f"arguments of {name}" for line in lines if any(secret in line for secret in secrets)]
    return places


def raw_controls(installation: Installation) -> list[str]:
    """Return the logs that contain control characters."""
    controls = (b"\x1b", b"\x07", b"\x00", "‮".encode(), "⁦".encode())
    logs = [*installation.folder.glob("*.log"), *installation.home.rglob("*.log")]
    return [path.name for path in logs if any(control in path.read_bytes() for control in controls)]


def pids(process: subprocess.Popen[bytes]) -> dict[str, list[int]]:
    """Return the process ids of each program."""
    return {name: sorted(child.pid for child in children) for name, children in programs(process).items()}
