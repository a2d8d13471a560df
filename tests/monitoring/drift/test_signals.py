"""From rows to a report: enough rows, alarms and their contents, and a customer's flood of texts as one observation."""

import numpy as np
import pytest

from monitoring.drift.calibration import Calibration, calibrate
from monitoring.drift.features import SIGNALS
from monitoring.drift.signals import (
    Evidence,
    evaluate_window,
    hashed_uniforms,
    initial_evidence,
    log_e_values,
    most_novel_texts,
    shifted_words,
    update_evidence,
)
from monitoring.drift.window import PredictionRows, admit, empty_rows
from pipeline.params import Monitor
from tests.monitoring.worlds import CLASSES, WIDTH, World


@pytest.fixture(scope="module")
def calibration(monitor_settings: Monitor) -> Calibration:
    calibration = calibrate(World(1).reference(1200), monitor_settings)
    assert calibration is not None
    return calibration


def alarmed(calibration: Calibration, rows: PredictionRows, monitor_settings: Monitor) -> set[str]:
    evidence, peak = update_evidence(calibration, initial_evidence(calibration), rows, monitor_settings)
    assert evidence.rows == len(rows.id)
    return {signal.name for signal in evaluate_window(calibration, rows, peak, (), monitor_settings).alarms}


def test_traffic_like_the_reference_does_not_alarm(calibration: Calibration, monitor_settings: Monitor) -> None:
    assert alarmed(calibration, World(2).rows(400), monitor_settings) == set()


@pytest.mark.parametrize(
    ("change", "signal"),
    [
        ({"out_of_distribution": 0.15}, "input_novelty"),
        ({"longer": 1.5}, "input_length"),
        ({"shares": np.array([0.55, 0.15, 0.15, 0.15])}, "prediction_labels"),
    ],
)
def test_the_signal_that_changed_alarms(
    calibration: Calibration, monitor_settings: Monitor, change: dict[str, object], signal: str
) -> None:
    assert signal in alarmed(calibration, World(3).rows(400, **change), monitor_settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 199])
def test_a_window_that_is_not_full_says_so_and_nothing_else(
    calibration: Calibration, monitor_settings: Monitor, count: int
) -> None:
    rows = World(4).rows(count, out_of_distribution=1.0)
    report = evaluate_window(calibration, rows, log_e_values(calibration, initial_evidence(calibration)), (), monitor_settings)
    assert report.state == "not enough data"
    assert (report.rows, report.wanted) == (count, 200)
    assert report.alarms == ()
    assert report.out_of_distribution_share is None
    assert all(signal.value is None and signal.p is None for signal in report.signals)


def test_rows_that_are_not_numbers_are_passed_over(calibration: Calibration, monitor_settings: Monitor) -> None:
    rows = World(5).rows(300)
    rows.probabilities[:150] = np.nan
    evidence, peak = update_evidence(calibration, initial_evidence(calibration), rows, monitor_settings)
    assert evidence.rows == 150
    assert evaluate_window(calibration, rows, peak, (), monitor_settings).state == "not enough data"


def test_a_single_valued_window_gives_numbers_and_no_exception(calibration: Calibration, monitor_settings: Monitor) -> None:
    rows = World(6).rows(1).take(np.zeros(250, dtype=np.int64))._replace(id=np.array([f"s{i}" for i in range(250)]))
    _, peak = update_evidence(calibration, initial_evidence(calibration), rows, monitor_settings)
    for signal in evaluate_window(calibration, rows, peak, (), monitor_settings).signals:
        assert signal.value is not None
        assert np.isfinite([signal.value, signal.p, signal.effect, signal.log_e]).all()


def test_no_rows_change_no_evidence(calibration: Calibration, monitor_settings: Monitor) -> None:
    evidence, peak = update_evidence(calibration, initial_evidence(calibration), empty_rows(CLASSES, WIDTH), monitor_settings)
    assert evidence.rows == 0
    assert set(peak.values()) == {-np.inf}


def test_evidence_in_parts_is_the_evidence_at_once(calibration: Calibration, monitor_settings: Monitor) -> None:
    rows = World(7).rows(600, out_of_distribution=0.05)
    whole, _ = update_evidence(calibration, initial_evidence(calibration), rows, monitor_settings)
    parts = initial_evidence(calibration)
    for first, last in ((0, 1), (1, 130), (130, 600)):
        parts, _ = update_evidence(calibration, parts, rows.take(slice(first, last)), monitor_settings)
    assert parts.rows == whole.rows
    for part, complete in zip(parts.bags + parts.wealth, whole.bags + whole.wealth, strict=True):
        assert (part == complete).all()


@pytest.mark.parametrize(("seed", "row"), [(0, 1110), (1, 1120), (2, 1080)])
def test_the_stream_alarms_on_novelty_at(calibration: Calibration, monitor_settings: Monitor, seed: int, row: int) -> None:
    """1,000 rows like the reference, then a tenth out-of-distribution; the row of the first alarm."""
    world = World(100 + seed)
    rows = world.rows(1000).concatenate(world.rows(1000, out_of_distribution=0.1))
    assert first_alarm(calibration, rows, monitor_settings, "input_novelty") == row


def first_alarm(calibration: Calibration, rows: PredictionRows, monitor_settings: Monitor, signal: str) -> int | None:
    evidence: Evidence = initial_evidence(calibration)
    for index in range(0, len(rows.id), 10):
        evidence, peak = update_evidence(calibration, evidence, rows.take(slice(index, index + 10)), monitor_settings)
        if peak[signal] >= calibration.log_threshold[signal]:
            return evidence.rows
    return None


def test_an_alarm_ends_when_the_traffic_recovers(calibration: Calibration, monitor_settings: Monitor) -> None:
    world = World(8)
    evidence, peak = update_evidence(
        calibration, initial_evidence(calibration), world.rows(500, out_of_distribution=0.5), monitor_settings
    )
    limit = calibration.log_threshold["input_novelty"]
    assert peak["input_novelty"] >= limit
    evidence, _ = update_evidence(calibration, evidence, world.rows(2000), monitor_settings)
    assert log_e_values(calibration, evidence)["input_novelty"] < limit


def test_an_alarm_shows_its_size_its_words_and_its_texts(calibration: Calibration, monitor_settings: Monitor) -> None:
    world = World(9)
    earlier = world.rows(300).text.tolist()
    rows = world.rows(400, out_of_distribution=0.3)
    _, peak = update_evidence(calibration, initial_evidence(calibration), rows, monitor_settings)
    report = evaluate_window(calibration, rows, peak, earlier, monitor_settings)
    assert report.out_of_distribution_share == pytest.approx(0.3, abs=0.06)
    assert {"scooter", "battery"} <= {word.word for word in report.words}
    assert len(report.examples) == 3
    assert all(text.startswith("scooter battery") for text in report.examples)


def test_without_an_alarm_no_text_is_shown(calibration: Calibration, monitor_settings: Monitor) -> None:
    rows = World(2).rows(400)
    report = evaluate_window(
        calibration, rows, log_e_values(calibration, initial_evidence(calibration)), rows.text.tolist(), monitor_settings
    )
    assert (report.words, report.examples) == ((), ())


def test_words_by_hand() -> None:
    words = shifted_words(["Scooter, please!"] * 30 + ["my parcel"] * 70, ["my parcel"] * 100, 3)
    assert [(word.word, word.now, word.before) for word in words] == [
        ("parcel", 0.7, 1.0),
        ("please", 0.3, 0.0),
        ("scooter", 0.3, 0.0),
    ]
    assert shifted_words(["a b c"], [], 3) == ()
    assert shifted_words([], ["parcel"], 3) == ()


def test_examples_are_the_most_novel_texts_each_once() -> None:
    assert most_novel_texts(["a", "B", "b", "c"], np.array([0.1, 3.0, 2.0, 1.0]), 3) == ("B", "c", "a")


def test_ties_are_broken_by_the_id_alone_and_evenly() -> None:
    ids = [f"id-{i}" for i in range(4000)]
    uniforms = hashed_uniforms(ids, ["input_length"], 3)
    assert (uniforms == hashed_uniforms(ids, ["input_length"], 3)).all()
    assert uniforms.mean(axis=0) == pytest.approx(np.full(3, 0.5), abs=0.02)
    assert abs(np.corrcoef(uniforms.T)[0, 1]) < 0.05


def flooded(world: World, customers: int, each: int) -> PredictionRows:
    """Return rows of customers who send the same text many times, in runs."""
    rows = world.rows(customers)
    repeated = rows.take(np.repeat(np.arange(customers), each))
    return repeated._replace(id=np.array([f"{row_id}-{i}" for i, row_id in enumerate(repeated.id)]))


def test_a_flood_breaks_the_promise_unless_rows_are_blocked_by_unit(monitor_settings: Monitor) -> None:
    """60 runs without drift: customers send each text ten times. The promise of .1 breaks, and holds for one row per unit."""
    promised = monitor_settings.model_copy(
        update={
            "expected_rows_per_week": 400.0,
            "false_alarms_per_week": 0.2,
            "null_draws": 200,
            "check_draws": 1,
            "axes": 2,
        }
    )
    alarms = {"every row": 0, "one per unit": 0}
    for seed in range(60):
        world = World(3000 + seed)
        calibration = calibrate(world.reference(250), promised)
        assert calibration is not None
        rows = flooded(world, 40, 10)
        counted = rows.take(admit(rows.unit.tolist(), rows.text.tolist(), {}, promised.rows_per_unit).admitted)
        for name, taken in (("every row", rows), ("one per unit", counted)):
            _, peak = update_evidence(calibration, initial_evidence(calibration), taken, promised)
            alarms[name] += any(peak[signal] >= calibration.log_threshold[signal] for signal in SIGNALS)
    assert alarms["every row"] / 60 > 0.5
    assert alarms["one per unit"] / 60 <= 0.1 + 2 * np.sqrt(0.09 / 60)
