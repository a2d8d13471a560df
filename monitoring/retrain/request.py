"""A retrain or release that a person asks for: request it, work on it here when no controller runs, follow it, or cancel it."""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from monitoring.clock import read_clock
from monitoring.release.runs import ReleaseRun, end_run, read_run, running_run
from monitoring.retrain.alerts import ReceivedAlert, insert_alerts
from monitoring.retrain.decide import ASKED, RELEASE_ASKED
from monitoring.retrain.journal import RetrainJob, cancel_retrain
from monitoring.retrain_activity import CANCEL, describe_running
from pipeline.errors import RefusedError
from pipeline.params import Alerts, Params
from serving.processes import Announce
from serving.processes.addresses import reach_host
from serving.processes.health import find_owner, health_sign
from state.database import open_state, read_only
from state.tables import decisions, retrains

POLL_S = 0.5


class RequestStatus(NamedTuple):
    """What has become of a request: its decision, and the retrain that it started or joined."""

    verdict: str  # waiting, started, joined, refused
    reason: str
    facts: dict[str, Any]
    retrain: sa.RowMapping | None

    @property
    def is_final(self) -> bool:
        """Return whether the request was refused, or its retrain has ended."""
        return self.verdict == "refused" or (self.retrain is not None and self.retrain["state"] != "running")


def request_retrain(engine: sa.Engine, why: str) -> str:
    """Insert a person's request as an alert, which starts a retrain or joins the running one; return its fingerprint."""
    return _request(engine, {"alertname": ASKED}, why)


def request_release(engine: sa.Engine, version: int, why: str) -> str:
    """Insert a person's request to release a published version; it is refused while a retrain runs."""
    return _request(engine, {"alertname": RELEASE_ASKED, "version": str(version)}, why)


def _request(engine: sa.Engine, labels: dict[str, str], why: str) -> str:
    now, fingerprint = time.time(), f"asked-{secrets.token_hex(8)}"
    body = json.dumps({"labels": labels, "annotations": {"why": why}})
    with engine.begin() as connection:
        insert_alerts(connection, [ReceivedAlert(fingerprint, now, "firing", body)], now)
    return fingerprint


def read_status(engine: sa.Engine, fingerprint: str) -> RequestStatus:
    """Read what has become of a request."""
    with engine.begin() as connection:
        of_request = sa.select(decisions).where(decisions.c.fingerprint == fingerprint)
        decision = connection.execute(of_request).mappings().one_or_none()
        if decision is None:
            return RequestStatus("waiting", "", {}, None)
        of_decision = sa.select(retrains).where(retrains.c.id == decision["retrain_id"])
        retrain = connection.execute(of_decision).mappings().one_or_none()
    return RequestStatus(decision["verdict"], decision["reason"], json.loads(decision["facts"]), retrain)


def retrain(params: Params, home: Path, why: str, announce: Announce, stopping: threading.Event) -> RequestStatus:
    """Request a retrain and follow it until it ends, or until `stopping`; return what has become of it.

    Without a running controller of this home this process does it, and gives it back when it must stop.
    """
    with open_state(home) as engine:
        return _carry_out(params, home, engine, request_retrain(engine, why), announce, stopping)


def release(params: Params, home: Path, version: int, why: str, announce: Announce, stopping: threading.Event) -> RequestStatus:
    """Request the gradual release of a published version, and follow it as a retrain."""
    with open_state(home) as engine:
        return _carry_out(params, home, engine, request_release(engine, version, why), announce, stopping)


def _carry_out(
    params: Params, home: Path, engine: sa.Engine, fingerprint: str, announce: Announce, stopping: threading.Event
) -> RequestStatus:
    """Follow a request; without a running controller of this home work on it."""
    if controller_answers(params.alerts, home):
        announce("the controller that runs here does it, not this command; to end it: " + CANCEL)
        _follow(engine, fingerprint, announce, stopping)
    else:
        announce("no controller runs here, so this command does it; Ctrl-C interrupts it")
        with _working(params, home, engine, stopping):
            _follow(engine, fingerprint, announce, stopping)
    return read_status(engine, fingerprint)


def _follow(engine: sa.Engine, fingerprint: str, announce: Announce, stopping: threading.Event) -> None:
    """Announce each change until the request's end."""
    shown = ""
    while not (status := read_status(engine, fingerprint)).is_final and not stopping.is_set():
        if status.retrain is not None and status.retrain["owner"] is not None:
            now = f"retrain {status.retrain['id']}: {describe_running(status.retrain, read_clock())}"
            if now != shown:
                announce(now)
            shown = now
        time.sleep(POLL_S)


@contextmanager
def _working(params: Params, home: Path, engine: sa.Engine, stopping: threading.Event) -> Iterator[None]:
    """Decide and work on requests, as a controller does, in a thread that ends with the block."""
    from monitoring.retrain.app import build_controller, repeat  # what works on a retrain takes seconds to import
    from monitoring.retrain.gate.candidate import gate
    from monitoring.retrain.metrics import ControllerMetrics

    metrics = ControllerMetrics()
    run_gate = partial(gate, params=params, home=home)
    controller = build_controller(params, home, engine.begin, run_gate, metrics, stopping, is_on_request=True)

    def cycle() -> None:
        controller.decide()
        controller.advance()

    parts = ("working", cycle, metrics, params.retrain.poll_s, stopping)
    thread = threading.Thread(target=repeat, args=parts, name="retrain", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def controller_answers(alerts: Alerts, home: Path) -> bool:
    """Return whether a controller of this home runs on this machine."""
    host, sign = reach_host("controller", alerts.host), health_sign("controller", home)
    return find_owner(host, alerts.controller_port, sign) == "this home"


def cancel(params: Params, home: Path, why: str, announce: Announce) -> int | None:
    """End the running retrain and its `dvc repro`, close its MLflow runs, and return its id; None when none runs.

    A release at its end is taken back: the transaction that ends both gives everything to the champion.
    """
    with open_state(home) as engine:
        with read_only(engine) as connection:
            run = running_run(connection)
        if run is not None:
            return _cancel_release(params, home, run, why, announce)
        with engine.begin() as connection:
            job = cancel_retrain(connection, params.publish.name, read_clock(), why)
    if job is None:
        return None
    from monitoring.retrain.run_local import RunLocal
    from pipeline.tracking import runs  # MLflow takes seconds to import

    RunLocal(Path.cwd(), home, params.retrain).clean(job)
    runs.close_orphans(home)
    return job.id


def _cancel_release(params: Params, home: Path, run: ReleaseRun, why: str, announce: Announce) -> int | None:
    """End a retrain in its release: shares, release and retrain in one transaction."""
    from monitoring.release.moves import LocalServing  # what moves traffic takes seconds to import

    ended = list[RetrainJob]()

    def check(connection: sa.Connection) -> None:
        if (known := read_run(connection, run.retrain_id)) is None or known.outcome is not None:
            raise RefusedError(f"retrain {run.retrain_id}", "its release has just ended", "see it: .venv/bin/evergreen status")

    def record(connection: sa.Connection) -> None:
        end_run(connection, run.retrain_id, check, outcome="aborted", reason=why, at=time.time())
        job = cancel_retrain(connection, params.publish.name, read_clock(), why)
        ended.extend([job] if job else [])

    LocalServing(params, home, announce).roll_back(run.version, check, record)
    return ended[0].id if ended else None


def describe_rest(status: RequestStatus) -> str:
    """Say what remains of a request that this process no longer follows."""
    if status.retrain is None:
        return "the request waits for a controller"
    return f"retrain {status.retrain['id']}: {describe_running(status.retrain, read_clock())}"
