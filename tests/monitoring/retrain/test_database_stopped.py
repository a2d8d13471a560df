"""A real PostgreSQL stops under a real receiver and controller: both live on, and nothing acknowledged is lost."""

import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import sqlalchemy as sa

from pipeline.params import Params
from state.tables import alerts, decisions
from tests.databases import running_postgres
from tests.faults.child import running_module
from tests.faults.stack import clean_environment, wait_until
from tests.faults.watching.alert_environment import Environment, lay_out, running_receiver
from tests.faults.watching.alerts import webhook

BEFORE, DURING = 1, range(2, 8)


def test_nothing_acknowledged_is_lost_and_refused_alerts_are_accepted_later(params: Params, tmp_path: Path) -> None:
    quick = params.retrain.model_copy(update={"settle_s": 0, "poll_s": 0.1, "label_wait_s": 0})
    environment = lay_out(tmp_path / "clone", params.model_copy(update={"retrain": quick}))
    for command in (
        ["init", "-q"],
        ["add", "params.yaml"],
        ["-c", "user.name=t", "-c", "user.email=t@e", "commit", "-qm", "params"],
    ):
        subprocess.run(["git", *command], cwd=environment.folder, check=True)
    with running_postgres() as server:
        url = server.url.render_as_string(hide_password=False)
        with running_receiver(environment, EVERGREEN_STATE_URL=url) as receiver, controlling(environment, url) as controller:
            assert post(environment, BEFORE) == 204
            wait_until(lambda: decided(server.url) == 1, 30, lambda: controller_log(environment))
            server.stop()
            begun = time.monotonic()
            assert {post(environment, number) for number in DURING} == {503}
            assert time.monotonic() - begun < 10
            wait_until(
                lambda: "the controller could not go on" in controller_log(environment), 30, lambda: controller_log(environment)
            )
            assert (receiver.poll(), controller.poll()) == (None, None)
            server.start()
            assert {post(environment, number) for number in DURING} == {204}  # as Alertmanager tries again
            wait_until(lambda: decided(server.url) == 1 + len(DURING), 30, lambda: controller_log(environment))
            assert (receiver.poll(), controller.poll()) == (None, None)
        assert fingerprints(server.url) == [f"{number:016x}" for number in (BEFORE, *DURING)]


def controlling(environment: Environment, url: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run `python -m monitoring.retrain` on this database."""
    variables = clean_environment() | {"EVERGREEN_HOME": str(environment.home), "EVERGREEN_STATE_URL": url}
    return running_module("monitoring.retrain", environment.folder / "controller.log", variables)


def post(environment: Environment, number: int) -> int:
    """Post a webhook and return the status of the response."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {environment.token}"}
    try:
        with urlopen(Request(f"http://127.0.0.1:{environment.port}/v1/alerts", webhook(number), headers), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as refused:
        assert refused.headers["retry-after"]
        return refused.code


def controller_log(environment: Environment) -> str:
    """Return the controller's log."""
    return (environment.folder / "controller.log").read_text()


def decided(url: sa.URL) -> int:
    """Return the number of decisions in the journal."""
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(decisions)).scalar_one()


def fingerprints(url: sa.URL) -> list[str]:
    """Return the fingerprints of all alerts in the journal."""
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return list(connection.execute(sa.select(alerts.c.fingerprint).order_by(alerts.c.fingerprint)).scalars())
