"""The backtest on hand-made signals: alerts, starts and costs; and other thresholds from a real reference."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.inspection import out
from monitoring.drift.calibration import calibrate
from monitoring.drift.features import SIGNALS
from monitoring.retrain.history import backtest
from monitoring.retrain.history.backtest import SignalPoint, StoredSignals, Thresholds
from monitoring.retrain.history.replay import Alert, GivenLabel, Observations
from monitoring.retrain.history.sources import open_sources
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.reference_profile import load_reference
from serving.release.manifest import model_name, repository
from state.database import open_state
from state.tables import feedback, judgements, signals, windows
from tests.conftest import ROOT
from tests.monitoring import homes, worlds
from tests.state.test_database import downgrade

HOUR = 3600.0
STREAM, WINDOW = backtest.STREAM, backtest.WINDOW


def points(log_e: Sequence[float], *, threshold: float = 5.0, p: Sequence[float] | None = None) -> list[SignalPoint]:
    """Return one signal with one window an hour; the stored alarms are stream alarms."""
    p_values = p or [0.5] * len(log_e)
    return [
        SignalPoint(
            1,
            number * HOUR,
            "input_novelty",
            200,
            1 - p_value,
            p_value,
            value,
            threshold,
            "stream" if value >= threshold else "none",
        )
        for number, (value, p_value) in enumerate(zip(log_e, p_values, strict=True), start=1)
    ]


def thresholds(log_e: float, value: float = 0.9) -> dict[int, Thresholds]:
    return {1: Thresholds(dict.fromkeys(SIGNALS, log_e), dict.fromkeys(SIGNALS, value), 0.01)}


def stored_signals(points: list[SignalPoint]) -> StoredSignals:
    return StoredSignals(points, Observations([(point.ended_at, point.version) for point in points], [], [], [], {}))


def test_an_alert_lasts_while_windows_alarm_and_a_quiet_time_starts_a_new_one() -> None:
    series = points([1, 6, 7, 2, 2, 8, 9])
    assert backtest.find_alerts(series, backtest.recorded_alarms, hold_s=0.5 * HOUR) == [
        Alert(STREAM, 1, "input_novelty", 2 * HOUR, 4.5 * HOUR),
        Alert(STREAM, 1, "input_novelty", 6 * HOUR, None),
    ]


def test_a_short_quiet_time_ends_no_alert() -> None:
    series = points([1, 6, 7, 2, 2, 8, 9])
    assert backtest.find_alerts(series, backtest.recorded_alarms, hold_s=2 * HOUR) == [
        Alert(STREAM, 1, "input_novelty", 2 * HOUR, None)
    ]


def test_a_higher_threshold_alarms_later_and_a_lower_one_sooner() -> None:
    series = points([1, 3, 6, 9])
    alerts = {log_e: backtest.find_alerts(series, backtest.alarms_under(thresholds(log_e)), 0.0) for log_e in (2, 5, 8)}
    assert {log_e: found[0].began_at / HOUR for log_e, found in alerts.items()} == {2: 2, 5: 3, 8: 4}
    assert backtest.find_alerts(series, backtest.alarms_under(thresholds(20)), 0.0) == []


def test_window_alarms_compare_the_statistic_or_without_a_reference_its_p_value() -> None:
    series = points([0, 0, 0], p=[0.5, 0.05, 0.001])
    by_value = backtest.find_alerts(series, backtest.alarms_under(thresholds(99, value=0.94)), 0.0)
    assert [(alert.alertname, alert.began_at) for alert in by_value] == [(WINDOW, 2 * HOUR)]
    without_reference = {1: Thresholds(dict.fromkeys(SIGNALS, 99.0), None, 0.01)}
    by_p = backtest.find_alerts(series, backtest.alarms_under(without_reference), 0.0)
    assert [alert.began_at for alert in by_p] == [3 * HOUR]


def test_promised_false_alarms_grow_with_the_rows(params: Params) -> None:
    settings = params.monitor.model_copy(update={"false_alarms_per_week": 0.5, "expected_rows_per_week": 400})
    assert backtest.promised_false_alarms(points([0, 0, 0, 0]), settings) == pytest.approx(0.5 * 800 / 400)


@pytest.fixture
def home(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home with a version, its reference, and five stored windows, the last two of which drifted."""
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    homes.publish(tmp_path, 1, worlds.World(3).reference(400))
    with open_state(tmp_path) as engine, engine.begin() as connection:
        for number in range(1, 6):
            window = {
                "version": 1,
                "number": number,
                "began_at": homes.NOON + number * HOUR,
                "ended_at": homes.NOON + (number + 1) * HOUR,
            }
            connection.execute(windows.insert().values(**window, rows=200, details="{}"))
            values = {"value": 0.01, "threshold": 0.5, "p": 0.4, "log_e": 2.0 * number, "log_threshold": 7.0}
            rows = [
                {"version": 1, "number": number, "signal": name, **values, "alarm": "stream" if number >= 4 else "none"}
                for name in SIGNALS
            ]
            connection.execute(signals.insert(), rows)
    return tmp_path


def test_thresholds_under_other_settings_are_the_monitors(home: Path, params: Params) -> None:
    other = params.monitor.model_copy(update={"false_alarms_per_week": 3.0, "null_draws": 500, "check_draws": 10})
    stored = stored_signals([*points([1]), points([1])[0]._replace(version=2)])
    found = backtest.thresholds_under(other, params.monitor, stored, home)
    expected = calibrate(load_reference(repository(home) / model_name(1) / "reference.npz"), other)
    assert expected is not None
    assert (found[1].log_e, found[1].value) == (expected.log_threshold, expected.thresholds)
    assert found[2].value is None  # its reference is missing


def test_signals_with_other_measurement_settings_are_not_replayed(home: Path, params: Params) -> None:
    other = params.monitor.model_copy(update={"window_rows": 100})
    with pytest.raises(InputError, match="window_rows is 100"):
        backtest.thresholds_under(other, params.monitor, stored_signals(points([1])), home)


def test_without_stored_windows_the_message_names_the_command_that_makes_them(tmp_path: Path, params: Params) -> None:
    with open_sources(tmp_path, params) as sources, pytest.raises(InputError, match="make watch"):
        backtest.read_stored_signals(sources)


def test_windows_of_an_older_schema_are_not_replayed_before_they_are_migrated(home: Path, params: Params) -> None:
    with open_state(home) as engine:
        downgrade(engine, "0004")
    with open_sources(home, params) as sources, pytest.raises(InputError, match=r"monitoring\.monitor --once"):
        backtest.read_stored_signals(sources)
    with open_state(home), open_sources(home, params) as sources:
        assert len(backtest.read_stored_signals(sources).observations.champions) == 5


def test_labels_and_judgements_are_read_by_the_time_they_became_known(home: Path, params: Params) -> None:
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    rows = [
        {
            "prediction_id": id,
            "label": "refund",
            "kind": "label",
            "labeller": person,
            "version": version,
            "received_at": at + timedelta(hours=hours),
        }
        for id, version, hours, person in (("p", 1, 0, "ann"), ("p", 1, 2, "bob"), ("a control text", None, 3, "bob"))
    ]
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(feedback.insert(), rows)
        connection.execute(judgements.insert().values(prediction_id="p", version=1, correct=False))
    with open_sources(home, params) as sources:
        observations = backtest.read_stored_signals(sources).observations
    noon = at.timestamp()
    assert observations.labels == [GivenLabel(noon, "p", "refund", "ann"), GivenLabel(noon + 2 * HOUR, "p", "refund", "bob")]
    assert observations.correct == [(noon, 1, False)]
    assert observations.versions[1].accuracy == pytest.approx(float(worlds.World(3).reference(400).correct.mean()))


def test_other_values_of_retrain_are_validated_like_params(params: Params) -> None:
    assert backtest.other_settings(params.retrain, "cooldown_s=60, min_labels=7") == params.retrain.model_copy(
        update={"cooldown_s": 60, "min_labels": 7}
    )
    for text, message in (("cooldown=60", "did you mean `cooldown_s`"), ("cooldown_s=soon", "`retrain.cooldown_s` = 'soon'")):
        with pytest.raises(InputError) as error:
            backtest.other_settings(params.retrain, text)
        assert message in str(error.value)


def test_the_command_prints_each_policy_and_draws_a_chart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "width", 200)
    options = ["--false-alarms", "1000", "--retrain", "settle_s=5", "--retrain-s", "1800"]
    options += ["--picture", str(home / "picture.png")]
    done = CliRunner().invoke(app, ["backtest", *options])
    assert done.exit_code == 0, done.output
    lines = {line.split("│")[1].strip(): line.split("│") for line in done.stdout.splitlines() if line.count("│") > 5}
    assert lines["as it fired"][3].strip() == str(len(SIGNALS))
    assert lines["as it fired"][6].strip() == "at most 0"  # no harm and no labels
    assert lines["as it fired"][10].strip() == f"no_harm {len(SIGNALS)}"
    assert int(lines["1000 a week"][3]) == len(SIGNALS)
    assert lines["settle_s=5"][3].strip() == "0"
    assert lines["these params"][3].strip() == "0"
    assert (home / "picture.png").read_bytes()[:4] == b"\x89PNG"
