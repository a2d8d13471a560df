"""When a round is due, and what the process does with one that fails."""

import sys
import threading
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from monitoring.flywheel.app import create_app
from monitoring.flywheel.queue.round import read_summary
from monitoring.flywheel.rounds import OUTPUT, Rounds
from monitoring.flywheel.schedule import FAILED, due_at, read_failed_at, store_failure
from pipeline.params import Params
from tests.monitoring.flywheel.worlds import NOW, Customers, flywheel_home, logged, write_log
from tests.monitoring.homes import NOON

DAY_S = 86_400.0
MAKES = """
import sys
from pathlib import Path
from monitoring.flywheel.queue.round import Round, write_round
write_round(Path(sys.argv[1]), Round(float(sys.argv[2]), 1, [], [], 5))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    customers = Customers(3)
    home = flywheel_home(tmp_path, customers)
    write_log(home, logged(customers.ask(300), at=NOON))
    return home


def rounds(params: Params, home: Path, code: str, now: float = NOW) -> Rounds:
    return Rounds(params, home, lambda: now, [sys.executable, "-c", code, str(home), str(now)])


def test_a_round_is_due_weekly_and_a_failed_one_an_hour_later(params: Params) -> None:
    settings = params.flywheel
    assert due_at(None, None, NOW, settings) == NOW
    assert due_at(NOW - DAY_S, None, NOW, settings) == NOW + 6 * DAY_S
    assert due_at(NOW - 8 * DAY_S, NOW - 60, NOW, settings) == NOW + 3540
    assert due_at(None, NOW - 7200, NOW, settings) <= NOW
    assert due_at(NOW + 900 * DAY_S, NOW + 900 * DAY_S, NOW, settings) == NOW + 7 * DAY_S  # the clock was set back


def test_a_failure_survives_a_restart_and_an_unreadable_file_is_none(tmp_path: Path) -> None:
    store_failure(tmp_path, NOW)
    assert read_failed_at(tmp_path) == NOW
    (tmp_path / FAILED).write_text("half a")
    assert read_failed_at(tmp_path) is None
    store_failure(tmp_path, None)
    assert not (tmp_path / FAILED).exists()


def test_a_due_round_is_made_in_a_child_process_and_exported(home: Path, params: Params) -> None:
    made = rounds(params, home, MAKES)
    assert made.look(threading.Event())
    summary = read_summary(home)
    assert summary and summary.made_at == NOW
    assert not made.look(threading.Event())  # the next one is due in a week
    text = made.metrics.text().decode()
    assert f"evergreen_flywheel_last_success_timestamp_seconds {NOW:.10g}".split()[0] in text
    assert 'evergreen_flywheel_candidates{reason="margin"} 0.0' in text


def test_a_failed_round_is_a_metric_and_a_log_line_and_waits_an_hour(
    home: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; print('error: the disk is full'); sys.exit(2)"
    failing = rounds(params, home, code)
    assert not failing.look(threading.Event())
    assert "evergreen_flywheel_failures_total 1.0" in failing.metrics.text().decode()
    assert "the disk is full" in "".join(capsys.readouterr())  # an earlier test may have set where lines of the log go
    assert (home / OUTPUT).stat().st_mode & 0o077 == 0
    assert not failing.look(threading.Event())
    restarted = rounds(params, home, code)
    assert not restarted.look(threading.Event())
    assert "evergreen_flywheel_failures_total 0.0" in restarted.metrics.text().decode()
    assert not rounds(params, home, code, NOW + 3601).look(threading.Event())
    assert read_failed_at(home) == NOW + 3601


def test_a_round_over_its_time_limit_is_ended(home: Path, params: Params) -> None:
    short = params.model_copy(update={"flywheel": params.flywheel.model_copy(update={"round_limit_s": 0.01})})
    assert not rounds(short, home, "import time; time.sleep(600)").look(threading.Event())
    assert read_failed_at(home) == NOW


def test_a_round_ends_with_its_process_and_counts_as_no_failure(home: Path, params: Params) -> None:
    stopping = threading.Event()
    stopping.set()
    assert not rounds(params, home, "import time; time.sleep(600)").look(stopping)
    assert read_failed_at(home) is None


def test_nothing_is_made_before_there_are_enough_answers(home: Path, params: Params) -> None:
    more = params.model_copy(update={"flywheel": params.flywheel.model_copy(update={"min_answers": 301})})
    assert not rounds(more, home, MAKES).look(threading.Event())
    assert read_summary(home) is None
    assert read_failed_at(home) is None


def test_the_process_answers_health_and_metrics(tmp_path: Path, params: Params) -> None:
    idle = rounds(params, tmp_path, MAKES)
    with TestClient(create_app(idle, threading.Event()), base_url="http://127.0.0.1") as client:
        assert client.get("/healthz").json()["service"] == "flywheel"
        assert "evergreen_flywheel_failures_total 0.0" in client.get("/metrics").text
