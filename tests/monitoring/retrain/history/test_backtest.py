"""The replay of stored signals: alerts, starts and costs on a hand-made history, and other thresholds from a real reference."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evergreen.cli import app
from monitoring.drift.calibration import calibrate
from monitoring.drift.features import SIGNALS
from monitoring.retrain.history import backtest as past
from monitoring.retrain.history.backtest import Kept, Limits, Point
from monitoring.retrain.history.replay import Alert, Opinion, Seen
from monitoring.retrain.history.stores import stores
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.reference_profile import load_reference
from serving.release.manifest import model_name, repository
from state.database import open_state
from state.tables import feedback, judgements, signals, windows
from tests.conftest import ROOT
from tests.monitoring import homes, worlds

HOUR = 3600.0
STREAM, WINDOW = past.STREAM, past.WINDOW


def points(log_e: Sequence[float], *, threshold: float = 5.0, p: Sequence[float] | None = None) -> list[Point]:
    """One signal, a window an hour; stored alarms are those of the stream."""
    chances = p or [0.5] * len(log_e)
    return [
        Point(
            1,
            number * HOUR,
            "input_novelty",
            200,
            1 - chance,
            chance,
            value,
            threshold,
            "stream" if value >= threshold else "none",
        )
        for number, (value, chance) in enumerate(zip(log_e, chances, strict=True), start=1)
    ]


def limits(log_e: float, value: float = 0.9) -> dict[int, Limits]:
    return {1: Limits(dict.fromkeys(SIGNALS, log_e), dict.fromkeys(SIGNALS, value), 0.01)}


def kept(found: list[Point]) -> Kept:
    return Kept(found, Seen([(one.ended_at, one.version) for one in found], [], [], [], {}))


def test_an_alert_lasts_while_windows_alarm_and_begins_anew_after_a_quiet_time() -> None:
    found = points([1, 6, 7, 2, 2, 8, 9])
    assert past.episodes(found, past.did_fire, hold_s=0.5 * HOUR) == [
        Alert(STREAM, 1, "input_novelty", 2 * HOUR, 4.5 * HOUR),
        Alert(STREAM, 1, "input_novelty", 6 * HOUR, None),
    ]


def test_a_quiet_time_that_is_short_ends_no_alert() -> None:
    found = points([1, 6, 7, 2, 2, 8, 9])
    assert past.episodes(found, past.did_fire, hold_s=2 * HOUR) == [Alert(STREAM, 1, "input_novelty", 2 * HOUR, None)]


def test_a_higher_threshold_fires_later_and_a_lower_one_sooner() -> None:
    found = points([1, 3, 6, 9])
    begun = {limit: past.episodes(found, past.would_fire(limits(limit)), 0.0)[0].began_at / HOUR for limit in (2, 5, 8)}
    assert begun == {2: 2, 5: 3, 8: 4}
    assert past.episodes(found, past.would_fire(limits(20)), 0.0) == []


def test_window_alarms_go_by_the_statistic_or_where_the_reference_has_gone_by_its_p() -> None:
    found = points([0, 0, 0], p=[0.5, 0.05, 0.001])
    by_value = past.episodes(found, past.would_fire(limits(99, value=0.94)), 0.0)
    assert [(one.alertname, one.began_at) for one in by_value] == [(WINDOW, 2 * HOUR)]
    by_p = past.episodes(found, past.would_fire({1: Limits(dict.fromkeys(SIGNALS, 99.0), None, 0.01)}), 0.0)
    assert [one.began_at for one in by_p] == [3 * HOUR]


def test_the_promise_grows_with_rows(params: Params) -> None:
    settings = params.monitor.model_copy(update={"false_alarms_per_week": 0.5, "expected_rows_per_week": 400})
    assert past.promised(points([0, 0, 0, 0]), settings) == pytest.approx(0.5 * 800 / 400)


@pytest.fixture
def home(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version with a reference, and a few stored windows, the last two of which drifted."""
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
            one = {"value": 0.01, "threshold": 0.5, "p": 0.4, "log_e": 2.0 * number, "log_threshold": 7.0}
            rows = [
                {"version": 1, "number": number, "signal": name, **one, "alarm": "stream" if number >= 4 else "none"}
                for name in SIGNALS
            ]
            connection.execute(signals.insert(), rows)
    return tmp_path


def test_limits_under_other_settings_are_those_of_the_monitor_itself(home: Path, params: Params) -> None:
    other = params.monitor.model_copy(update={"false_alarms_per_week": 3.0, "null_draws": 500, "check_draws": 10})
    found = past.limits_under(other, params.monitor, kept([*points([1]), points([1])[0]._replace(version=2)]), home)
    own = calibrate(load_reference(repository(home) / model_name(1) / "reference.npz"), other)
    assert own is not None
    assert (found[1].log_e, found[1].value) == (own.log_threshold, own.thresholds)
    assert found[2].value is None  # its reference is not there


def test_signals_that_were_measured_otherwise_are_not_replayed(home: Path, params: Params) -> None:
    other = params.monitor.model_copy(update={"window_rows": 100})
    with pytest.raises(InputError, match="window_rows is 100"):
        past.limits_under(other, params.monitor, kept(points([1])), home)


def test_without_stored_windows_the_message_says_what_makes_them(tmp_path: Path, params: Params) -> None:
    with stores(tmp_path, params) as at, pytest.raises(InputError, match="make watch"):
        past.stored(at)


def test_opinions_and_judgements_are_read_by_the_time_they_became_known(home: Path, params: Params) -> None:
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    rows = [
        {"prediction_id": "p", "label": "refund", "kind": "label", "source": who, "received_at": at + timedelta(hours=hours)}
        for hours, who in ((0, "ann"), (2, "bob"))
    ]
    with open_state(home) as engine, engine.begin() as connection:
        connection.execute(feedback.insert(), rows)
        connection.execute(judgements.insert().values(prediction_id="p", version=1, correct=False))
    with stores(home, params) as stored:
        seen = past.stored(stored).seen
    noon = at.timestamp()
    assert seen.opinions == [Opinion(noon, "p", "refund", "ann"), Opinion(noon + 2 * HOUR, "p", "refund", "bob")]
    assert seen.correct == [(noon, 1, False)]
    assert seen.versions[1].accuracy == pytest.approx(float(worlds.World(3).reference(400).correct.mean()))


def test_other_values_of_retrain_are_checked_as_params_are(params: Params) -> None:
    assert past.other_settings(params.retrain, "cooldown_s=60, min_labels=7") == params.retrain.model_copy(
        update={"cooldown_s": 60, "min_labels": 7}
    )
    for text, told in (("cooldown=60", "did you mean `cooldown_s`"), ("cooldown_s=soon", "`retrain.cooldown_s` = 'soon'")):
        with pytest.raises(InputError) as error:
            past.other_settings(params.retrain, text)
        assert told in str(error.value)


def test_the_command_prints_each_policy_and_draws_a_picture(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ["--false-alarms", "1000", "--retrain", "settle_s=5", "--retrain-s", "1800"]
    options += ["--picture", str(home / "picture.png")]
    done = CliRunner().invoke(app, ["backtest", *options])
    assert done.exit_code == 0, done.output
    lines = {line.split("│")[1].strip(): line.split("│") for line in done.stdout.splitlines() if line.count("│") > 5}
    assert lines["as it fired"][3].strip() == str(len(SIGNALS))
    assert lines["as it fired"][6].strip() == "at most 0"  # it does not hurt, and nobody has labelled
    assert lines["as it fired"][10].strip() == f"no_harm {len(SIGNALS)}"
    assert int(lines["1000 a week"][3]) == len(SIGNALS)
    assert lines["settle_s=5"][3].strip() == "0"
    assert lines["these params"][3].strip() == "0"
    assert (home / "picture.png").read_bytes()[:4] == b"\x89PNG"
