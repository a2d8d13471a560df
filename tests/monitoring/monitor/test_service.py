"""The monitor's cycles on SQLite, PostgreSQL and real segments: results are stored once, whatever fails or is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import sqlalchemy as sa
from starlette.testclient import TestClient

from monitoring.drift.histogram_distances import BINNED_SIGNALS
from monitoring.flywheel.disagreement.store import add_measurement
from monitoring.monitor import service as monitor_module
from monitoring.monitor.app import create_app
from monitoring.monitor.service import MonitorService
from pipeline.params import Params
from serving.processes.ports import free_port
from serving.release.release_table import promote
from state import tables
from state.database import open_state
from tests.monitoring.conftest import measured_disagreement
from tests.monitoring.homes import NOON, Gateway, log_rows, publish
from tests.monitoring.worlds import LABELS, World, settings

ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # tests that do not depend on the database
WINDOWS = ("version", "number", "began_at", "ended_at", "rows", "foreign_share", "details")


@pytest.fixture(scope="module")
def small_params(params: Params) -> Params:
    """Return params with small windows, few draws, a promise that so few draws can keep, and a free port."""
    alerts = params.alerts.model_copy(update={"monitor_port": free_port()})
    return params.model_copy(
        update={"monitor": settings(params.monitor, window_rows=100, false_alarms_per_week=1.0), "alerts": alerts}
    )


@pytest.fixture
def home(tmp_path: Path, database: str) -> Path:
    """Return a home whose champion is version 1; SQLite or PostgreSQL holds the state."""
    publish(tmp_path, 1, World(1).reference(800))
    return tmp_path


def drive(monitor: MonitorService) -> MonitorService:
    while monitor.cycle():
        pass
    return monitor


def fresh(small_params: Params, home: Path) -> MonitorService:
    return MonitorService(small_params, home, lambda: NOON + 100)


def rows_of(home: Path, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
    with open_state(home) as engine, engine.connect().execution_options(reads_only=True) as connection:
        shown = [table.c[name] for name in columns] or list(table.c)
        return [tuple(row) for row in connection.execute(sa.select(*shown).order_by(*table.primary_key.columns))]


def value(monitor: MonitorService, name: str, **labels: str) -> float | None:
    return monitor.metrics.registry.get_sample_value(f"evergreen_{name}", labels)


def add_feedback(home: Path, *labels: tuple[str, str]) -> None:
    """Insert feedback of (prediction id, label)."""
    with open_state(home) as engine, engine.begin() as connection:
        for id, label in labels:
            row = {"prediction_id": id, "label": label, "kind": "label", "labeller": "desk", "received_at": datetime.now(UTC)}
            connection.execute(tables.feedback.insert().values(row))


def test_windows_signals_and_predictions_are_stored(small_params: Params, home: Path) -> None:
    Gateway(home, "one").write(log_rows(World(2).rows(250), LABELS))
    monitor = drive(fresh(small_params, home))
    assert monitor.failed == ""
    windows = rows_of(home, tables.windows, "version", "number", "began_at", "ended_at", "rows")
    assert windows == [(1, 1, NOON, pytest.approx(NOON + 0.099), 100), (1, 2, pytest.approx(NOON + 0.1), NOON + 0.199, 100)]
    assert len(rows_of(home, tables.signals)) == 2 * 7
    assert len(rows_of(home, tables.answers)) == 250
    assert value(monitor, "window_rows", version="1") == 50
    assert value(monitor, "monitor_rows_total", version="1", role="champion") == 250
    assert {row[-1] for row in rows_of(home, tables.signals, "alarm")} == {"none"}


@ON_SQLITE
def test_disagreement_that_the_flywheel_has_stored_is_exported(small_params: Params, home: Path) -> None:
    monitor = drive(fresh(small_params, home))
    bound = {"version": "1", "other": "control", "bound": "lower"}
    assert value(monitor, "disagreement_ratio", **bound) is None
    with open_state(home) as engine, engine.begin() as connection:
        add_measurement(connection, measured_disagreement(1, lower=0.5, measured_at=NOON))
        add_measurement(connection, measured_disagreement(1, lower=0.03, measured_at=NOON + 1))
        add_measurement(connection, measured_disagreement(2, measured_at=NOON + 2))
    drive(monitor)
    assert value(monitor, "disagreement_ratio", **bound) == 0.03
    assert value(monitor, "disagreement_ratio", **bound | {"version": "2"}) is None


@ON_SQLITE
def test_drift_is_reported_with_words_and_texts(small_params: Params, home: Path) -> None:
    world, gateway = World(3), Gateway(home, "one")
    gateway.write(log_rows(world.rows(300), LABELS))
    monitor = drive(fresh(small_params, home))
    assert all(entry["alarm"] == "none" and not entry["examples"] for entry in monitor.report["signals"])  # type: ignore[index]
    gateway.write(log_rows(world.rows(300, out_of_distribution=0.4), LABELS, at=NOON + 10))
    entry = {entry["signal"]: entry for entry in drive(monitor).report["signals"]}["input_novelty"]  # type: ignore[index]
    assert entry["alarm"] == "both"
    assert "scooter" in entry["moved_words"]
    assert len(entry["examples"]) == 3
    assert all(text.startswith("scooter battery") for text in entry["examples"])
    labels = {"version": "1", "signal": "input_novelty"}
    assert value(monitor, "drift_log_e", **labels) > value(monitor, "drift_log_e_threshold", signal="input_novelty")  # type: ignore[operator]
    assert value(monitor, "drift_statistic", **labels) > value(monitor, "drift_statistic_threshold", **labels)  # type: ignore[operator]
    assert "scooter" in rows_of(home, tables.windows, "details")[-1][0]


@ON_SQLITE
def test_psi_and_jensen_shannon_of_the_last_window_are_in_the_report_and_the_metrics(small_params: Params, home: Path) -> None:
    world, gateway = World(3), Gateway(home, "one")
    gateway.write(log_rows(world.rows(90), LABELS))
    monitor = drive(fresh(small_params, home))
    assert value(monitor, "monitor_psi", version="1", signal="prediction_labels") is None  # no window is full
    gateway.write(log_rows(world.rows(110, shares=np.array([0.7, 0.1, 0.1, 0.1])), LABELS, at=NOON + 10))
    monitor = drive(fresh(small_params, home))
    entries = {entry["signal"]: entry for entry in monitor.report["signals"]}  # type: ignore[index]
    for name in BINNED_SIGNALS:
        psi, distance = entries[name]["psi"], entries[name]["jensen_shannon"]
        assert value(monitor, "monitor_psi", version="1", signal=name) == psi
        assert value(monitor, "monitor_jensen_shannon", version="1", signal=name) == distance
        assert 0 < distance < 1
    assert entries["prediction_labels"]["psi"] > 0.25
    assert all(entry["psi"] is None for name, entry in entries.items() if name not in BINNED_SIGNALS)
    restarted = drive(fresh(small_params, home))
    assert restarted.report["signals"] == monitor.report["signals"]  # type: ignore[index]


@ON_SQLITE
def test_a_log_of_hashes_shows_no_texts(small_params: Params, home: Path) -> None:
    world, gateway = World(3), Gateway(home, "one")
    gateway.write(log_rows(world.rows(300), LABELS), text="hash")
    gateway.write(log_rows(world.rows(300, out_of_distribution=0.4), LABELS, at=NOON + 10), text="hash")
    entries = {entry["signal"]: entry for entry in drive(fresh(small_params, home)).report["signals"]}
    entry = entries["input_novelty"]  # type: ignore[index]
    assert entry["alarm"] == "both"
    assert (entry["moved_words"], entry["examples"]) == ([], [])


def stored_rows(home: Path) -> list[Any]:
    return [rows_of(home, tables.windows, *WINDOWS), rows_of(home, tables.signals), rows_of(home, tables.answers, "id", "label")]


def test_restarts_and_any_cut_into_batches_change_nothing(small_params: Params, tmp_path: Path) -> None:
    results = []
    for number, batch_rows in enumerate((10_000, 40)):
        home = tmp_path / str(number)
        publish(home, 1, World(1).reference(800))
        world, gateway = World(4), Gateway(home, "one")
        for segment in range(12):
            gateway.write(log_rows(world.rows(37, out_of_distribution=0.3 * (segment > 6)), LABELS, at=NOON + segment))
        changed = small_params.model_copy(update={"monitor": small_params.monitor.model_copy(update={"batch_rows": batch_rows})})
        more = True
        while more:
            monitor = fresh(changed, home)  # a new process for each batch
            more = monitor.cycle()
            monitor.close()
        results.append(stored_rows(home))
    assert results[0] == results[1]
    assert len(results[0][0]) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
from monitoring.monitor import service, store
from pipeline.params import Params

point, home, params = int(sys.argv[1]), Path(sys.argv[2]), Params.model_validate_json(sys.argv[3])
passed = 0

def killing(function):
    def wrapped(*arguments):
        global passed
        for is_first in (True, False):  # before and after
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1
            result = function(*arguments) if is_first else result
        return result
    return wrapped

for name in ("save_state", "add_windows", "add_answers", "add_judgements"):
    setattr(store, name, killing(getattr(store, name)))
service.MonitorService._publish = killing(service.MonitorService._publish)
monitor = service.MonitorService(params, home, lambda: 1_790_000_100.0)
while monitor.cycle():
    pass
"""


def rows_after_a_kill(small_params: Params, home: Path, url: str, point: int | None) -> list[Any]:
    """Return all rows that a monitor leaves in a fresh home; killed at this point, and started again."""
    small_batches = small_params.monitor.model_copy(update={"batch_rows": 100})
    small_params = small_params.model_copy(update={"monitor": small_batches})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("EVERGREEN_STATE_URL", url)
        publish(home, 1, World(1).reference(800))
        world, gateway = World(5), Gateway(home, "one")
        for segment in range(3):
            gateway.write(log_rows(world.rows(110), LABELS, at=NOON + segment))
        add_feedback(home, ("p3", "address"), ("p130", "nonsense"))
        if point is not None:
            command = [sys.executable, "-c", KILLED, str(point), str(home), small_params.model_dump_json()]
            assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
        drive(fresh(small_params, home)).close()
        return [*stored_rows(home), rows_of(home, tables.judgements, "prediction_id", "correct")]


@pytest.fixture(scope="module")
def spared(small_params: Params, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return the rows of a monitor that is not killed."""
    folder = tmp_path_factory.mktemp("spared")
    return rows_after_a_kill(small_params, folder, f"sqlite:///{folder / 'spared.db'}", None)


@pytest.mark.parametrize(
    ("database", "point"),
    [*(("sqlite", point) for point in range(0, 30, 3)), *(("postgresql", point) for point in (3, 21))],
    indirect=["database"],
)
def test_a_kill_9_anywhere_neither_duplicates_nor_loses_rows(
    small_params: Params, tmp_path: Path, database: str, point: int, spared: list[Any]
) -> None:
    stored = rows_after_a_kill(small_params, tmp_path / "killed", database, point)
    assert stored == spared
    assert len(stored[-1]) == 2


def test_a_promotion_starts_afresh_and_loses_no_row_of_the_new_champion(small_params: Params, home: Path) -> None:
    Gateway(home, "one").write(log_rows(World(2).rows(250), LABELS))
    monitor = drive(fresh(small_params, home))
    publish(home, 2, World(7).reference(800))
    Gateway(home, "two").write(log_rows(World(8).rows(150), LABELS, version=2, at=NOON + 20))
    drive(monitor)
    assert value(monitor, "monitored_version") == 2
    assert value(monitor, "window_rows", version="1") is None
    assert value(monitor, "window_rows", version="2") == 50
    assert monitor.report["version"] == 2  # type: ignore[index]
    with open_state(home) as engine, engine.begin() as connection:
        promote(connection, 1)
    drive(monitor)
    Gateway(home, "three").write(log_rows(World(9).rows(100), LABELS, at=NOON + 40))
    drive(monitor)
    assert [row[:2] for row in rows_of(home, tables.windows, *WINDOWS)] == [(1, 1), (1, 2), (1, 3), (2, 1)]


def test_rows_wait_in_the_log_while_a_reference_is_missing(small_params: Params, home: Path) -> None:
    monitor = drive(fresh(small_params, home))
    publish(home, 2, None)
    Gateway(home, "two").write(log_rows(World(8).rows(150), LABELS, version=2))
    monitor.cycle()
    monitor.cycle()
    assert monitor.failed == "reference"
    assert value(monitor, "monitor_failures_total", part="reference") == 2
    for name in ("reference.npz", "labels.txt"):
        (home / "models/intent-2" / name).write_bytes((home / "models/intent-1" / name).read_bytes())
    drive(monitor)
    assert monitor.failed == ""
    assert len(rows_of(home, tables.windows)) == 1


@ON_SQLITE
def test_an_unavailable_database_is_counted_and_nothing_is_lost(small_params: Params, home: Path) -> None:
    Gateway(home, "one").write(log_rows(World(2).rows(150), LABELS))
    monitor = fresh(small_params, home)
    drive(monitor)
    Gateway(home, "two").write(log_rows(World(3).rows(150), LABELS, at=NOON + 5))
    (home / "state.db").rename(home / "away.db")
    (home / "state.db").mkdir()
    monitor._engine.dispose()
    assert monitor.cycle() is False
    assert monitor.failed == "database"
    (home / "state.db").rmdir()
    (home / "away.db").rename(home / "state.db")
    drive(monitor)
    assert monitor.failed == ""
    assert len(rows_of(home, tables.windows)) == 3


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_server_that_ends_our_sessions_loses_nothing(small_params: Params, home: Path, database: str) -> None:
    Gateway(home, "one").write(log_rows(World(2).rows(150), LABELS))
    monitor = drive(fresh(small_params, home))
    Gateway(home, "two").write(log_rows(World(3).rows(150), LABELS, at=NOON + 5))
    with sa.create_engine(database, poolclass=sa.NullPool).connect() as connection:
        ours = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")  # noqa: S608
    monitor.cycle()
    drive(monitor)
    assert monitor.failed == ""
    assert value(monitor, "monitor_failures_total", part="database") is None  # a new session is opened unseen
    assert len(rows_of(home, tables.windows)) == 3


@ON_SQLITE
def test_corrupted_segments_are_counted_and_passed_over(small_params: Params, home: Path) -> None:
    gateway = Gateway(home, "one")
    gateway.write(log_rows(World(2).rows(60), LABELS)).write_bytes(b"half")
    gateway.write(log_rows(World(3).rows(120), LABELS, at=NOON + 1))
    monitor = drive(fresh(small_params, home))
    assert value(monitor, "monitor_segments_skipped_total") == 1
    assert len(rows_of(home, tables.windows)) == 1


def test_of_two_monitors_one_writes(small_params: Params, home: Path) -> None:
    first, second = drive(fresh(small_params, home)), drive(fresh(small_params, home))
    Gateway(home, "one").write(log_rows(World(2).rows(150), LABELS))
    drive(first)
    second.cycle()
    assert second.failed == "database"
    drive(second)
    assert second.failed == ""
    assert len(rows_of(home, tables.windows)) == 1
    assert value(second, "window_rows", version="1") == 50


def test_feedback_counts_whether_it_or_the_prediction_comes_first(small_params: Params, home: Path) -> None:
    rows = log_rows(World(2).rows(200), LABELS)
    add_feedback(home, *[(row.id, "something else") for row in rows[100:140]])
    add_feedback(home, ("unknown", "address"))
    monitor = drive(fresh(small_params, home))
    Gateway(home, "one").write(rows)
    drive(monitor)
    add_feedback(home, *[(row.id, row.label) for row in rows[:100]], *[(row.id, row.label) for row in rows[100:140]])
    drive(monitor)
    assert value(monitor, "accuracy_labels", version="1") == 140
    assert value(monitor, "accuracy_labelled_ratio", version="1", bound="estimate") == pytest.approx(100 / 140)
    assert value(monitor, "harm_log_e", version="1") > 4.6  # type: ignore[operator]
    assert drive(fresh(small_params, home)).report["labelled"]["labels"] == 140  # type: ignore[index]


def test_the_stored_state_is_published_after_a_restart_without_the_log(small_params: Params, home: Path) -> None:
    Gateway(home, "one").write(log_rows(World(2).rows(250), LABELS))
    drive(fresh(small_params, home))
    without_log = small_params.model_copy(update={"log": small_params.log.model_copy(update={"url": "s3-that-nobody-has://log"})})
    monitor = fresh(without_log, home)
    monitor.cycle()
    assert monitor.failed == "log"
    assert value(monitor, "window_rows", version="1") == 50
    assert value(monitor, "monitor_last_success_timestamp_seconds") is None


def test_other_settings_start_the_evidence_afresh_and_continue_counting_windows(small_params: Params, home: Path) -> None:
    Gateway(home, "one").write(log_rows(World(2).rows(250), LABELS))
    drive(fresh(small_params, home))
    changed = small_params.model_copy(update={"monitor": small_params.monitor.model_copy(update={"cells": 16})})
    Gateway(home, "two").write(log_rows(World(3).rows(100), LABELS, at=NOON + 9))
    drive(fresh(changed, home))
    assert [row[1] for row in rows_of(home, tables.windows, *WINDOWS)] == [1, 2, 3]


@ON_SQLITE
def test_an_alarm_of_a_window_stays_visible_for_two_scrapes(small_params: Params, home: Path) -> None:
    """Two drifted windows and ten quiet ones in one cycle: a scrape every half a minute sees the alarm, and later its end."""
    world, gateway, now = World(3), Gateway(home, "one"), [NOON + 100]
    gateway.write(log_rows(world.rows(200, out_of_distribution=0.5), LABELS))
    gateway.write(log_rows(world.rows(1000), LABELS, at=NOON + 1))
    monitor = drive(MonitorService(small_params, home, lambda: now[0]))
    labels = {"version": "1", "signal": "input_novelty"}

    def is_alarm() -> bool:
        return value(monitor, "drift_statistic", **labels) > value(monitor, "drift_statistic_threshold", **labels)  # type: ignore[operator, no-any-return]

    assert is_alarm()
    now[0] += 61
    gateway.write(log_rows(world.rows(100), LABELS, at=NOON + 61))
    drive(monitor)
    assert not is_alarm()
    assert value(monitor, "drift_log_e", **labels) < value(monitor, "drift_log_e_threshold", signal="input_novelty")  # type: ignore[operator]


def test_with_too_few_reference_rows_labels_count_and_drift_is_not_evaluated(small_params: Params, tmp_path: Path) -> None:
    publish(tmp_path, 1, World(1).reference(60))
    rows = log_rows(World(2).rows(150), LABELS)
    Gateway(tmp_path, "one").write(rows)
    add_feedback(tmp_path, *[(row.id, row.label) for row in rows[:40]])
    monitor = drive(fresh(small_params, tmp_path))
    assert monitor.failed == ""
    assert value(monitor, "accuracy_labels", version="1") == 40
    assert value(monitor, "drift_log_e", version="1", signal="input_novelty") is None


@pytest.fixture
def environment(small_params: Params, home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a working folder with params.yaml, and the environment of a separate monitor."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "params.yaml").write_text(json.dumps(small_params.model_dump(mode="json")))
    root = str(Path(monitor_module.__file__).parents[2])
    return folder, {**os.environ, "EVERGREEN_HOME": str(home), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


@ON_SQLITE
def test_once_prints_the_report(home: Path, environment: tuple[Path, dict[str, str]]) -> None:
    Gateway(home, "one").write(log_rows(World(2).rows(150), LABELS))
    folder, variables = environment
    command = [sys.executable, "-m", "monitoring.monitor", "--once"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["window"] == {"state": "watching", "rows": 50, "wanted": 100, "judged": 1}


@ON_SQLITE
def test_the_process_serves_keeps_reading_and_ends_at_sigterm(
    small_params: Params, home: Path, environment: tuple[Path, dict[str, str]]
) -> None:
    folder, variables = environment
    process = subprocess.Popen([sys.executable, "-m", "monitoring.monitor"], cwd=folder, env=variables)
    url = f"http://127.0.0.1:{small_params.alerts.monitor_port}"
    try:
        wait(lambda: "evergreen_monitored_version 1.0" in requests.get(f"{url}/metrics", timeout=5).text)
        Gateway(home, "one").write(log_rows(World(2).rows(150), LABELS))
        wait(lambda: requests.get(f"{url}/report.json", timeout=5).json()["window"]["judged"] == 1)
        assert requests.get(f"{url}/report.json", headers={"host": "evil.example"}, timeout=5).status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) in (0, 143, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("client", "server", "code"),
    [
        ("127.0.0.1", "127.0.0.1", 503),  # nothing was evaluated yet
        ("::1", "::1", 503),
        ("192.168.7.2", "192.168.7.2", 503),  # the inbox of the same machine, at its address
        ("10.244.1.9", "10.244.1.7", 403),  # Prometheus, or whoever has its label
        ("127.0.0.6", "10.244.1.7", 403),  # through a sidecar of a service mesh
    ],
)
@ON_SQLITE
def test_only_a_caller_on_the_same_host_reads_the_report_and_any_scraper_the_metrics(
    client: str, server: str, code: int, small_params: Params, home: Path
) -> None:
    app = create_app(fresh(small_params, home), threading.Event())

    async def on_the_connection(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": (client, 40000), "server": (server, 8095)}, receive, send)

    caller = TestClient(on_the_connection, base_url="http://monitor:8095")
    spoofed = {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1"}
    assert caller.get("/report.json", headers=spoofed).status_code == code
    assert caller.get("/metrics").status_code == 200


def wait(holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            if holds():
                return
        except (requests.RequestException, KeyError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)
