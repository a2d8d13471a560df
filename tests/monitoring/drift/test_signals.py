"""From rows to a report: what is enough, what alarms, what is told with it, and that a customer's flood is one observation."""

import numpy as np
import pytest

from monitoring.drift.calibration import Calibrated, calibrate
from monitoring.drift.features import SIGNALS
from monitoring.drift.signals import Evidence, check, log_e, most_novel, start, uniforms, update, words_that_moved
from monitoring.drift.window import Rows, admit, no_rows
from pipeline.params import Monitor, Params
from tests.monitoring.worlds import CLASSES, WIDTH, World, settings


@pytest.fixture(scope="module")
def own(params: Params) -> Monitor:
    return settings(params.monitor)


@pytest.fixture(scope="module")
def calibrated(own: Monitor) -> Calibrated:
    made = calibrate(World(1).reference(1200), own)
    assert made is not None
    return made


def alarmed(calibrated: Calibrated, rows: Rows, own: Monitor) -> set[str]:
    evidence, peak = update(calibrated, start(calibrated), rows, own)
    assert evidence.rows == len(rows.id)
    return {signal.name for signal in check(calibrated, rows, peak, (), own).alarms}


def test_traffic_as_the_reference_alarms_on_nothing(calibrated: Calibrated, own: Monitor) -> None:
    assert alarmed(calibrated, World(2).rows(400), own) == set()


@pytest.mark.parametrize(
    ("change", "signal"),
    [
        ({"foreign": 0.15}, "input_novelty"),
        ({"longer": 1.5}, "input_length"),
        ({"shares": np.array([0.55, 0.15, 0.15, 0.15])}, "prediction_labels"),
    ],
)
def test_what_changed_is_what_alarms(calibrated: Calibrated, own: Monitor, change: dict[str, object], signal: str) -> None:
    assert signal in alarmed(calibrated, World(3).rows(400, **change), own)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 199])
def test_a_window_that_is_not_full_says_so_and_nothing_else(calibrated: Calibrated, own: Monitor, count: int) -> None:
    rows = World(4).rows(count, foreign=1.0)
    report = check(calibrated, rows, log_e(calibrated, start(calibrated)), (), own)
    assert report.state == "not enough data"
    assert (report.rows, report.wanted) == (count, 200)
    assert report.alarms == ()
    assert report.out_of_distribution_share is None
    assert all(signal.value is None and signal.p is None for signal in report.signals)


def test_rows_that_are_no_numbers_are_passed_over(calibrated: Calibrated, own: Monitor) -> None:
    rows = World(5).rows(300)
    rows.probabilities[:150] = np.nan
    evidence, peak = update(calibrated, start(calibrated), rows, own)
    assert evidence.rows == 150
    assert check(calibrated, rows, peak, (), own).state == "not enough data"


def test_a_single_valued_window_gives_numbers_and_no_exception(calibrated: Calibrated, own: Monitor) -> None:
    one = World(6).rows(1)
    rows = one.take(np.zeros(250, dtype=np.int64))._replace(id=np.array([f"s{i}" for i in range(250)]))
    _, peak = update(calibrated, start(calibrated), rows, own)
    for signal in check(calibrated, rows, peak, (), own).signals:
        assert signal.value is not None
        assert np.isfinite([signal.value, signal.p, signal.effect, signal.log_e]).all()


def test_no_rows_change_no_evidence(calibrated: Calibrated, own: Monitor) -> None:
    evidence, peak = update(calibrated, start(calibrated), no_rows(CLASSES, WIDTH), own)
    assert evidence.rows == 0
    assert set(peak.values()) == {-np.inf}


def test_evidence_in_parts_is_the_evidence_at_once(calibrated: Calibrated, own: Monitor) -> None:
    rows = World(7).rows(600, foreign=0.05)
    whole, _ = update(calibrated, start(calibrated), rows, own)
    parts = start(calibrated)
    for first, last in ((0, 1), (1, 130), (130, 600)):
        parts, _ = update(calibrated, parts, rows.take(slice(first, last)), own)
    assert parts.rows == whole.rows
    for one, other in zip(parts.bags + parts.wealth, whole.bags + whole.wealth, strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(("seed", "row"), [(0, 1110), (1, 1120), (2, 1080)])
def test_the_stream_alarms_on_novelty_at(calibrated: Calibrated, own: Monitor, seed: int, row: int) -> None:
    """1,000 rows as the reference, then a tenth foreign; the count of rows at the first alarm."""
    world = World(100 + seed)
    rows = world.rows(1000).then(world.rows(1000, foreign=0.1))
    assert first_alarm(calibrated, rows, own, "input_novelty") == row


def first_alarm(calibrated: Calibrated, rows: Rows, own: Monitor, signal: str) -> int | None:
    evidence: Evidence = start(calibrated)
    for index in range(0, len(rows.id), 10):
        evidence, peak = update(calibrated, evidence, rows.take(slice(index, index + 10)), own)
        if peak[signal] >= calibrated.log_threshold[signal]:
            return evidence.rows
    return None


def test_an_alarm_ends_when_the_traffic_is_as_before(calibrated: Calibrated, own: Monitor) -> None:
    world = World(8)
    evidence, peak = update(calibrated, start(calibrated), world.rows(500, foreign=0.5), own)
    limit = calibrated.log_threshold["input_novelty"]
    assert peak["input_novelty"] >= limit
    evidence, _ = update(calibrated, evidence, world.rows(2000), own)
    assert log_e(calibrated, evidence)["input_novelty"] < limit


def test_an_alarm_tells_how_much_which_words_and_which_texts(calibrated: Calibrated, own: Monitor) -> None:
    world = World(9)
    earlier = world.rows(300).text.tolist()
    rows = world.rows(400, foreign=0.3)
    _, peak = update(calibrated, start(calibrated), rows, own)
    report = check(calibrated, rows, peak, earlier, own)
    assert report.out_of_distribution_share == pytest.approx(0.3, abs=0.06)
    assert {"scooter", "battery"} <= {moved.word for moved in report.words}
    assert len(report.examples) == 3
    assert all(text.startswith("scooter battery") for text in report.examples)


def test_without_an_alarm_no_text_is_shown(calibrated: Calibrated, own: Monitor) -> None:
    rows = World(2).rows(400)
    report = check(calibrated, rows, log_e(calibrated, start(calibrated)), rows.text.tolist(), own)
    assert (report.words, report.examples) == ((), ())


def test_words_by_hand() -> None:
    moved = words_that_moved(["Scooter, please!"] * 30 + ["my parcel"] * 70, ["my parcel"] * 100, 3)
    assert [(one.word, one.now, one.before) for one in moved] == [
        ("parcel", 0.7, 1.0),
        ("please", 0.3, 0.0),
        ("scooter", 0.3, 0.0),
    ]
    assert words_that_moved(["a b c"], [], 3) == ()
    assert words_that_moved([], ["parcel"], 3) == ()


def test_examples_are_the_most_novel_texts_each_once() -> None:
    assert most_novel(["a", "B", "b", "c"], np.array([0.1, 3.0, 2.0, 1.0]), 3) == ("B", "c", "a")


def test_ties_are_broken_by_the_id_alone_and_evenly() -> None:
    ids = [f"id-{i}" for i in range(4000)]
    found = uniforms(ids, ["input_length"], 3)
    assert (found == uniforms(ids, ["input_length"], 3)).all()
    assert found.mean(axis=0) == pytest.approx(np.full(3, 0.5), abs=0.02)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.05


def flooded(world: World, customers: int, each: int) -> Rows:
    """Rows of customers who send the same text many times, in runs."""
    rows = world.rows(customers)
    repeated = rows.take(np.repeat(np.arange(customers), each))
    return repeated._replace(id=np.array([f"{own}-{i}" for i, own in enumerate(repeated.id)]))


def test_a_flood_breaks_the_promise_unless_rows_are_blocked_by_unit(own: Monitor) -> None:
    """60 runs without drift: customers send each text ten times. The promise of .1 breaks, and holds for one row a unit."""
    promised = own.model_copy(
        update={"expected_rows_per_week": 400.0, "false_alarms_per_week": 0.2, "null_draws": 200, "check_draws": 1, "axes": 2}
    )
    alarms = {"every row": 0, "one a unit": 0}
    for seed in range(60):
        world = World(3000 + seed)
        made = calibrate(world.reference(250), promised)
        assert made is not None
        rows = flooded(world, 40, 10)
        counted = rows.take(admit(rows.unit.tolist(), rows.text.tolist(), {}, promised.rows_per_unit).admitted)
        for name, taken in (("every row", rows), ("one a unit", counted)):
            _, peak = update(made, start(made), taken, promised)
            alarms[name] += any(peak[signal] >= made.log_threshold[signal] for signal in SIGNALS)
    assert alarms["every row"] / 60 > 0.5
    assert alarms["one a unit"] / 60 <= 0.1 + 2 * np.sqrt(0.09 / 60)
