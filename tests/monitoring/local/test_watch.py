"""The whole monitoring stack on loopback: from drift in the prediction log to words and texts in the inbox.

The model and its reference are the small project's. The gateway's segment writer writes the prediction log.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from monitoring.drift.calibration import reference_rows
from monitoring.drift.window import PredictionRows
from monitoring.local.watch import running_stack
from pipeline.params import Alerts, Params
from pipeline.reference_profile import Reference, load_reference
from serving.processes.ports import free_port
from serving.release.manifest import model_name, repository
from serving.release.publish import publish
from tests.conftest import ROOT, Project
from tests.monitoring.fast_stack import PACE, inbox_command
from tests.monitoring.homes import Gateway, log_rows
from tests.monitoring.inbox.running_inbox import RunningInbox

MONITOR = """
import os, sys
os.chdir(sys.argv[1])
os.environ["EVERGREEN_HOME"] = sys.argv[2]
from monitoring.monitor.app import main
sys.argv[1:] = []
main()
"""


class Traffic:
    """Prediction rows resampled from the reference, with unique texts and customers."""

    def __init__(self, reference: Reference) -> None:
        self.reference, self.rng, self.count = reference, np.random.default_rng(5), 0

    def in_distribution(self, count: int) -> PredictionRows:
        """Return rows that follow the reference."""
        sample = reference_rows(self.reference, np.ones(len(self.reference.ids), dtype=np.bool_)).take(
            self.rng.integers(0, len(self.reference.ids), count)
        )
        return self._with_ids(sample, "where is parcel number {}")

    def out_of_distribution(self, count: int) -> PredictionRows:
        """Return rows with a distant sketch and an uncertain prediction."""
        rows = self.in_distribution(count)
        probabilities = np.full_like(rows.probabilities, 1 / rows.probabilities.shape[1])
        sketch = -rows.sketch + self.rng.normal(0, rows.sketch.std(), rows.sketch.shape).astype(np.float16)
        return self._with_ids(rows._replace(probabilities=probabilities, sketch=sketch), "my scooter battery {} caught fire")

    def _with_ids(self, rows: PredictionRows, text: str) -> PredictionRows:
        numbers = range(self.count, self.count + len(rows.pieces))
        self.count += len(numbers)
        return rows._replace(
            id=np.array([f"p{number}" for number in numbers]),
            unit=np.array([f"customer-{number}" for number in numbers]),
            text=np.array([text.format(number) for number in numbers]),
        )


@pytest.fixture
def quick(made: Project, params: Params) -> Params:
    """Use free ports, a pace of seconds and small windows."""
    ports = {f"{name}_port": free_port() for name in ("prometheus", "alertmanager", "inbox", "monitor")}
    small = {"window_rows": 60, "min_reference_rows": 10, "poll_s": 0.2}
    return params.model_copy(
        update={
            "alerts": params.alerts.model_copy(update=PACE | ports),
            "monitor": params.monitor.model_copy(update=small),
            "gateway": params.gateway.model_copy(update={"port": free_port()}),
            "serve": params.serve.model_copy(update={"metrics_port": free_port()}),
        }
    )


@contextmanager
def running_inbox(params: Params, tools: Path, home: Path, work: Path) -> Iterator[RunningInbox]:
    alerts: Alerts = params.alerts
    (work / "params.yaml").write_text(json.dumps(params.model_dump(mode="json")))
    monitor = [sys.executable, "-c", MONITOR, str(work), str(home)]
    with running_stack(params, tools, home / "alerts", print, inbox_command=inbox_command(alerts, home), monitor_command=monitor):
        yield RunningInbox(f"http://127.0.0.1:{alerts.inbox_port}", alerts, home)


def test_drift_in_the_log_reaches_the_inbox_with_words_and_three_texts(
    made: Project, quick: Params, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "live", tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(made.home, home, dirs_exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(home))
        published = publish(made / "artifacts/package", made / "dvc.lock", quick.publish.name, home)
    version = published.release.version
    reference = load_reference(repository(home) / model_name(version) / "reference.npz")
    file = (repository(home) / model_name(version) / "labels.txt").read_text().splitlines()
    traffic, gateway = Traffic(reference), Gateway(home, "one")

    def log(rows: PredictionRows) -> None:
        gateway.write(log_rows(rows, reference.labels.tolist(), version=version, at=time.time(), file=file))

    log(traffic.in_distribution(180))
    with running_inbox(quick, tools, home, work) as inbox:
        inbox.wait(lambda state: state["switch"] is not None)
        report = evaluated_report(f"http://127.0.0.1:{quick.alerts.monitor_port}/report.json", windows=3)
        assert {signal["alarm"] for signal in report["signals"]} == {"none"}
        assert not [message for message in inbox.state()["messages"] if message["labels"]["area"] == "drift"]
        log(traffic.out_of_distribution(120))
        state = inbox.wait(lambda state: bool(drift_messages(state)), within_s=25)
        names = {message["labels"]["alertname"] for message in drift_messages(state)}
        assert names & {"EvergreenDrift", "EvergreenWindowDrift"}
        page = inbox.page()
    assert "scooter" in page
    assert page.count("my scooter battery") >= 3
    assert f"of version {version}" in page


def evaluated_report(url: str, *, windows: int, within_s: float = 30) -> dict[str, Any]:
    """Return the monitor's report once it has evaluated this many windows."""
    deadline = time.monotonic() + within_s
    while (report := requests.get(url, timeout=5).json()).get("window", {}).get("judged") != windows:
        assert time.monotonic() < deadline, report
        time.sleep(0.05)
    return dict(report)


def drift_messages(state: dict[str, list[dict[str, dict[str, str]]]]) -> list[dict[str, dict[str, str]]]:
    """Return the messages on drift that have an explanation."""
    return [message for message in state["messages"] if message["labels"]["area"] == "drift" and message["evidence"] is not None]
