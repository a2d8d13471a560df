"""Check the release bench against values computed by hand, its worlds on a small corpus, and run all of it on one."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.params import Params
from tests.bench.release import __main__ as bench
from tests.bench.release.canaries import Ending, false_refusals, make_weather, play
from tests.bench.release.controls import CONTROLS, argo_style, calibrate, confidence_sequence, group_sequential, peeking_z, react
from tests.bench.release.replay import HORIZON, LADDER, LOOK, ControlLooks, Stream, climb, control_looks, labelled_counts, replay
from tests.bench.release.rows import compare, mean_ratio, to_rows
from tests.bench.release.worlds import Case, Corpus, plant

NOISE = Case("noise, 6 % differ", 0.02, 0.06)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Return 1,000 texts of 20 classes, of which the champion has nine in ten right."""
    truth = np.repeat(np.arange(20), 50)
    return Corpus(truth, np.arange(1000) % 10 > 0)


@pytest.mark.parametrize("kind", ["noise", "lost classes"])
@pytest.mark.parametrize("lost", [0.0, 0.01, 0.02, 0.05])
def test_a_version_loses_what_its_case_says(corpus: Corpus, kind: str, lost: float) -> None:
    outcomes = plant(corpus, Case(kind, lost, 0.06), np.random.default_rng(1))
    assert (outcomes == -1).sum() - (outcomes == 1).sum() == round(1000 * lost)
    assert corpus.is_right[outcomes == -1].all() and not corpus.is_right[(outcomes == 1) | (outcomes == 2)].any()


def test_lost_classes_are_lost_whole(corpus: Corpus) -> None:
    outcomes = plant(corpus, Case("lost classes", 0.05, 0.0001), np.random.default_rng(2))
    lost = np.bincount(corpus.truth[outcomes == -1], minlength=20)
    assert sorted(lost[lost > 0].tolist()) == [5, 45], "a class has 45 right answers"


def test_an_identical_version_differs_nowhere(corpus: Corpus) -> None:
    assert not plant(corpus, Case("identical", 0.0, 0.0), np.random.default_rng(3)).any()


def test_the_arms_of_the_controls_are_the_shares_of_their_steps() -> None:
    outcomes = np.zeros(HORIZON, dtype=np.int64)
    outcomes[0], outcomes[-1] = -1, -1
    stream = Stream(outcomes, np.ones(HORIZON, dtype=bool), np.linspace(0, 1, HORIZON, endpoint=False) * 7 % 1)
    looks = control_looks(stream)
    assert looks[0, 0] == looks[4, 0] + looks[1, 0], "what is not right was harmed"
    assert looks[0, -1] + looks[2, -1] == LOOK, "half and half in the last step"
    assert looks[4].sum() == 1, "the first request was the challenger's; the last one comes after the ladder"


def test_labels_are_counted_in_order_and_repeated_where_there_are_no_more() -> None:
    outcomes = np.zeros(HORIZON, dtype=np.int64)
    outcomes[[3, 5, 9]] = [1, 2, -1]
    counts = labelled_counts(Stream(outcomes, np.ones(HORIZON, dtype=bool), np.zeros(HORIZON)), 4)
    assert counts.tolist() == [[4, 6, 10, HORIZON], [1, 1, 1, 1], [0, 0, 1, 1]]


def test_our_ladder_harms_only_what_its_arm_answers(params: Params) -> None:
    settings = params.release.model_copy(update={"steps": "0.5", "step_answers": 2})
    outcomes = np.full(HORIZON, -1)
    units = np.tile([0.1, 0.9], HORIZON // 2)
    harmed, at = climb(Stream(outcomes, np.ones(HORIZON, dtype=bool), units), 10, settings)
    assert at == 14.0, "two answers of each arm"
    assert harmed == 2 + HORIZON - 14, "then it answers everything"


def looks_of(right: list[int], baseline_right: list[int], answers: int = 100) -> ControlLooks:
    """Return the looks of one release."""
    sides = [np.full((1, len(right)), answers), np.array([right]), np.full((1, len(right)), answers), np.array([baseline_right])]
    return ControlLooks(*sides, harmed=np.ones((1, len(right)), dtype=np.int64))


def test_the_statistics_of_the_controls_have_their_textbook_values() -> None:
    looks = looks_of([80, 80, 80, 80], [90, 90, 90, 90])
    z = (0.9 - 0.8) / np.sqrt(0.85 * 0.15 * 2 / 100)
    assert peeking_z(looks)[0] == pytest.approx(z * np.sqrt([1, 2, 3, 4]))
    assert group_sequential(looks)[0, -1] == pytest.approx(2 * z) and np.isnan(group_sequential(looks)[0, :-1]).all()
    assert confidence_sequence(looks)[0, -1] == pytest.approx(0.5 * (4 * z * z * 0.2 / 1.2 - np.log(1.2)))
    failing = looks_of([80] * 8 + [60] * 8, [90] * 16)
    assert argo_style(failing)[0, 15] == pytest.approx(0.2), "of four measurements the fourth lowest has 0.8"


def test_a_threshold_rolls_back_its_share_of_the_good_and_at_the_first_look_beyond_it(corpus: Corpus, params: Params) -> None:
    equal = replay(corpus, NOISE._replace(lost=0.0), params.release, releases=40, seed=1)
    for statistic in CONTROLS.values():
        values = statistic(equal.looks)
        reaction = react(equal, values, calibrate(values, 0.05))
        assert reaction.is_rolled_back.sum() <= 2
        assert (reaction.at[~reaction.is_rolled_back] == LADDER).all()
        assert (reaction.at % LOOK == 0).all() and (reaction.labels <= 2 * LADDER).all()


def test_rows_say_what_was_refused_and_harmed(corpus: Corpus, params: Params) -> None:
    played = [replay(corpus, NOISE._replace(lost=lost), params.release, releases=40, seed=1) for lost in (0.0, 0.02)]
    rows = to_rows(compare(played, 0.05))
    assert [row.goal for row in rows] == ["R1", "R1 harm", "R1 labels", "R1 false"]
    assert rows[0].value == 100 * played[1].verdicts.is_refused.mean() and rows[0].value > 85
    assert rows[1].value == played[1].harmed.mean() and rows[1].control_value > rows[1].value


def test_the_ratio_of_harm_is_of_means_and_nothing_without_harm() -> None:
    ratio = mean_ratio(np.array([40.0, 20.0]), np.array([10.0, 5.0]))
    assert ratio is not None and ratio.median == pytest.approx(4) and ratio.low == pytest.approx(4)
    assert mean_ratio(np.array([40.0]), np.array([0.0])) is None


def test_an_identical_version_becomes_champion_through_an_outage_of_both_arms(corpus: Corpus, params: Params) -> None:
    ending = play(corpus, Case("identical", 0.0, 0.0), params.release, seed=4, number=0)
    assert ending.move == "promote" and ending.broken is None
    assert make_weather(np.random.default_rng(1)).has_failed.sum() > 100


def test_refusals_are_counted_by_what_broke() -> None:
    endings = [Ending("promote", None, 9), Ending("roll_back", "latency", 9), Ending("refuse", None, 9), Ending("wait", None, 9)]
    assert false_refusals(endings) == (0.5, {"latency": 1, "shadow": 1})


def test_the_bench_runs_and_writes_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    words = [f"word{number}" for number in range(60)]
    for side, texts in (("train", 40), ("test", 100)):
        path = tmp_path / "banking77" / f"{side}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "category"))
            for label in range(10):
                own = words[5 * label : 5 * label + 8]
                writer.writerows((" ".join(rng.choice(own, 3)), f"class {label}") for _ in range(texts))
    monkeypatch.setattr("sys.argv", ["bench", "--quick", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    bench.main()
    rows = json.loads((tmp_path / "out" / "release.json").read_text())
    assert {"R1", "R1 harm", "R1 labels", "R1 false", "K3b"} <= {row["goal"] for row in rows}
    assert (tmp_path / "out" / "release.png").stat().st_size > 0
