"""Run a real receiver and real Alertmanagers in a scratch home, and read what their journal holds."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import sqlalchemy as sa
import yaml

from monitoring.clock import Moment, read_clock
from monitoring.local.tools import find_tool, working_directory
from monitoring.retrain.decide import Decision, Episode, Harm, Inputs, PastRetrain, decide
from monitoring.retrain.journal import Journal
from monitoring.retrain.receiver.app import token_file
from pipeline.lifetime import end_with_parent
from pipeline.params import Params
from serving.processes.ports import free_port
from state.database import open_state
from state.tables import alerts, decisions, retrains
from tests.faults.child import start_module, stop
from tests.faults.stack import clean_environment, wait_until


class Environment(NamedTuple):
    """Name the receiver's params, its folder and its home of state."""

    params: Params
    folder: Path  # with params.yaml
    home: Path

    @property
    def port(self) -> int:
        return self.params.alerts.receiver_port

    @property
    def token(self) -> str:
        return token_file(self.params.alerts, self.home).read_text().strip()


def lay_out(folder: Path, params: Params) -> Environment:
    """Make a scratch folder with free ports."""
    folder.mkdir(parents=True)
    ports = {"receiver_port": free_port("127.0.0.1"), "controller_port": free_port("127.0.0.1")}
    params = params.model_copy(update={"alerts": params.alerts.model_copy(update=ports)})
    (folder / "params.yaml").write_text(yaml.safe_dump(json.loads(params.model_dump_json())))
    return Environment(params, folder, folder / "live")


@contextmanager
def running_receiver(environment: Environment, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the receiver; yield its process when it is ready."""
    process = start(environment, **variables)
    try:
        wait_until(lambda: receiver_is_up(environment), 60)
        yield process
    finally:
        stop(process)


def start(environment: Environment, **variables: str) -> subprocess.Popen[bytes]:
    """Start the receiver without waiting for it."""
    variables = clean_environment() | {"EVERGREEN_HOME": str(environment.home)} | variables
    return start_module("monitoring.retrain.receiver", environment.folder / "receiver.log", variables)


def receiver_is_up(environment: Environment) -> bool:
    """Return whether the receiver answers."""
    return is_up(f"http://127.0.0.1:{environment.port}/healthz")


def is_up(url: str) -> bool:
    """Return whether anything answers at this address."""
    try:
        with urlopen(url, timeout=2):  # noqa: S310 (ours, on loopback)
            return True
    except OSError:
        return False


@contextmanager
def alertmanager(environment: Environment, tools: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real Alertmanager without peers that notifies the receiver only."""
    folder = environment.folder / f"alertmanager-{port}"
    folder.mkdir(exist_ok=True)
    token = {"type": "Bearer", "credentials_file": str(token_file(environment.params.alerts, environment.home))}
    hook = {"url": f"http://127.0.0.1:{environment.port}/v1/alerts", "http_config": {"authorization": token}}
    route = {"receiver": "controller", "group_wait": "0s", "group_interval": "1s", "repeat_interval": "5s"}
    config = {"route": route, "receivers": [{"name": "controller", "webhook_configs": [hook]}]}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    command = [str(find_tool(tools, "alertmanager")), f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder}"]
    options = [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", "--log.level=error"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, cwd=working_directory(tools), preexec_fn=end_with_parent
        )
    try:
        yield process
    finally:
        stop(process)


def post_alerts(port: int, count: int, started_at: datetime) -> None:
    """Post alerts to Alertmanager's API, as Prometheus does."""
    labels = {"alertname": "EvergreenDrift", "area": "drift", "version": "1", "by_alertmanager": "yes"}
    posted = [
        {"labels": labels | {"number": str(n)}, "annotations": {}, "startsAt": started_at.isoformat()} for n in range(count)
    ]
    headers = {"content-type": "application/json"}
    with urlopen(Request(f"http://127.0.0.1:{port}/api/v2/alerts", json.dumps(posted).encode(), headers), timeout=10):
        pass


def alertmanager_alerts(environment: Environment) -> list[str]:
    """Return the numbers of the drill's alerts that an Alertmanager delivered, one for each row."""
    with open_state(environment.home) as engine, engine.connect() as connection:
        bodies = connection.execute(sa.select(alerts.c.body).where(alerts.c.body.contains("by_alertmanager"))).scalars()
        return [json.loads(body)["labels"]["number"] for body in bodies]


def journal_fingerprints(environment: Environment) -> set[str]:
    """Return the fingerprints in the journal."""
    with open_state(environment.home) as engine, engine.connect() as connection:
        return set(connection.execute(sa.select(alerts.c.fingerprint)).scalars())


def decide_alerts(environment: Environment) -> list[str]:
    """Decide on all alerts as the controller does, without working on a retrain; return the verdicts of all decisions."""
    settings = environment.params.retrain.model_copy(update={"settle_s": 0, "label_wait_s": 0})
    with open_state(environment.home) as engine:
        journal = Journal(engine.begin, "evergreen")
        now: Moment = read_clock()

        def decide_retrains(_connection: sa.Connection, episodes: list[Episode], past: list[PastRetrain]) -> list[Decision]:
            return decide(episodes, Inputs(1, None, "head", past, 1000, Harm(True, True)), settings, now)

        while journal.record_episodes(now):
            pass
        journal.decide(decide_retrains, now)
        with engine.connect() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(retrains)).scalar_one() <= 1
            return list(connection.execute(sa.select(decisions.c.verdict)).scalars())


def webhook(number: int) -> bytes:
    """Return a webhook with one alert, identified by its number."""
    labels = {"alertname": "EvergreenDrift", "area": "drift", "severity": "warning", "version": "1", "signal": "input_sketch"}
    alert = {"status": "firing", "labels": labels, "annotations": {}, "startsAt": "2026-09-21T14:13:20.123456789Z"}
    alerts = [alert | {"endsAt": "0001-01-01T00:00:00Z", "fingerprint": f"{number:016x}"}]
    return json.dumps({"version": "4", "status": "firing", "receiver": "controller", "alerts": alerts}).encode()
