"""Run the drills in small on one real stack; each verdict is broken by bad figures."""

import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf, isfinite, nan
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from pipeline.output.terminal import Terminal
from pipeline.params import Params
from serving.loadtest import read_texts
from serving.loadtest.sender import LOST, REFUSED, TIMEOUT
from tests.bench.meter import Meter, Pace
from tests.conftest import ROOT, Project
from tests.faults import drill, intruder, killed, overload, swaps
from tests.faults.intruder_environment import with_tokens
from tests.faults.memory import Sample, median_between, slope
from tests.faults.open_load import wrong_answers
from tests.faults.running_stack import DrillSettings, RunningStack, running_stack
from tests.faults.scorecard import Outcome, Promise
from tests.faults.stack import OfflineAnswers
from tests.faults.timeline import Timeline
from tests.faults.traffic import Traffic

MEASURED_S, CALLERS = 2.0, 4  # of the closed loop that measures this machine's capacity
SHARE = 1 / 3  # of the measured rate is the drills' capacity: other tests may use the cores meanwhile
JOINED = 6  # texts in one: long texts overload the model at a rate that is easy for the gateway


@pytest.fixture(scope="module")
def running(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    scratch = tmp_path_factory.mktemp("drill")
    console = Terminal(file=io.StringIO())
    few = made.params.gateway.model_copy(update={"max_waiting_texts": 16, "deadline_ms": 3000, "cache_bytes": 0})
    params = made.params.model_copy(update={"gateway": few})
    short = read_texts(made / "data/few.jsonl", params.data)
    texts = [" ".join(short[at : at + JOINED]) for at in range(len(short) - JOINED)]
    meter = Meter(console, Pace(0.5, 1.0, 20, 1.3), limit_s=inf, seed=0)
    package, lock = made / "artifacts/package", made / "dvc.lock"
    setting = DrillSettings(package, lock, params, texts, scratch, console, meter, capacity_per_s=1.0)
    with running_stack(setting, "small") as running:
        yield running._replace(capacity_per_s=SHARE * answers_per_s(running.installation.url, texts))


def answers_per_s(url: str, texts: Sequence[str]) -> float:
    """Return the rate at which a closed loop gets answers."""
    queue, until_s = iter(texts), time.monotonic() + MEASURED_S

    def call() -> int:
        answered = 0
        while time.monotonic() < until_s:
            answered += requests.post(f"{url}/v1/predict", json={"text": next(queue)}, timeout=30).ok
        return answered

    with ThreadPoolExecutor(CALLERS) as pool:
        return sum(pool.map(lambda _: call(), range(CALLERS))) / (time.monotonic() - until_s + MEASURED_S)


def broken(outcome: Outcome) -> list[str]:
    return [promise.what for promise in outcome.promises if not promise.is_kept]


# on the real stack, in this order


def test_three_swaps_under_load_fail_no_request_and_all_sources_agree(running: RunningStack, tmp_path: Path) -> None:
    outcome, timeline = swaps.run(running, swaps.Amount(swaps=3, quiet_s=2.0, stretch_s=2.0))
    timed = {promise.what for promise in outcome.promises if promise.goal == "S7b"}
    assert set(broken(outcome)) <= timed, outcome.notes  # three swaps are too few for these
    assert set(outcome.figures["champions"].values()) == {1}
    assert isfinite(outcome.figures["ratio"])
    assert outcome.figures["swap_s"]["median"] > 0
    drill.report(outcome, timeline, tmp_path, running.setting.console)
    check_report(tmp_path, "swaps", outcome)


def test_a_flood_is_refused_with_503_and_leaves_no_failures_behind(running: RunningStack, tmp_path: Path) -> None:
    """Bound the gateway's peak only: in six seconds caches and buffers still fill, which looks like steady growth."""
    outcome, timeline = overload.run(running, overload.Amount(normal_s=4.0, overload_s=6.0, times=12.0))
    too_short_for = ("the gateway creeps, within the overload, by", "P99 is normal again after")
    assert set(broken(outcome)) <= set(too_short_for), outcome.notes
    sent = timeline.traffic
    assert sent.ok[sent.at_s > sent.at_s[-1] - overload.WINDOW_S].all()  # no failures at the end
    drill.report(outcome, timeline, tmp_path, running.setting.console)
    check_report(tmp_path, "overload", outcome)


def test_a_killed_triton_comes_back_and_no_answer_is_wrong(running: RunningStack, tmp_path: Path) -> None:
    dense = running._replace(capacity_per_s=running.capacity_per_s / SHARE)  # even one second without Triton fails requests
    for _ in range(4):  # on a busy machine no request may be due while Triton is away; such a kill proves nothing
        outcome, timeline = killed.run(dense, killed.Amount(["triton"], quiet_s=2.0, stretch_s=2.0))
        if broken(outcome) != [killed.FELT]:
            break
    assert broken(outcome) == [], outcome.notes
    drill.report(outcome, timeline, tmp_path, running.setting.console)
    check_report(tmp_path, "killed", outcome)


def test_an_intruder_writes_nothing_and_disturbs_nobody(running: RunningStack, tmp_path: Path) -> None:
    """Run last: the gateway requires tokens from here on. Attacks that only a time limit ends are left out."""
    targets = with_tokens(running.installation)
    amount = intruder.Amount(
        normal_per_s=4.0,
        connections=0,
        heads_mib=4,
        floods=4,
        labels=4,
        replays=3,
        requests=4,
        rounds=1,
        is_slow=False,
        stretch_s=2.0,
    )
    outcome, timeline = intruder.run(running, targets, [], amount)
    assert broken(outcome) == [], outcome.notes
    drill.report(outcome, timeline, tmp_path, running.setting.console)
    check_report(tmp_path, "intruder", outcome)


def check_report(folder: Path, name: str, outcome: Outcome) -> None:
    report = json.loads((folder / f"{name}.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert [entry["what"] for entry in report["promises"]] == [promise.what for promise in outcome.promises]
    assert report["kept"] == outcome.is_kept
    assert {"command", "commit", "date"} <= report.keys()
    assert sum(row["requests"] for row in report["seconds"]) > 0
    with Image.open(folder / f"{name}.png") as picture:
        assert picture.size[0] > 1000


# verdicts on hand-made figures


SWAPS = swaps.Figures(
    asked=20, done=20, requests=900, failed=0, wrong=0, ratio=1.4, triton_growth=1.0, gateway_growth=-0.5, astray=0
)
OVERLOAD = overload.Figures(
    requests=9000,
    refused=6000,
    other=0,
    without_retry_after=0,
    failed_before=0,
    wrong=0,
    answered_share=1.1,
    accepted_p99_ms=1900.0,
    refused_p99_ms=2010.0,
    bound_ms=2500.0,
    recovery_s=1.5,
    gateway_peak=12.0,
    gateway_creep=1.0,
)
TRITON = killed.Fault("triton", at_s=10.0, outage_s=4.0, not_answered={"503": 90}, not_allowed=0)
LOG = killed.Log(answered=1000, cut_off=2, stored=950, counted=51.0)
INTRUDER = intruder.Figures(
    requests=900,
    failed=0,
    wrong=0,
    attempts=4000,
    unexpected=0,
    uncounted=0,
    forged_rows=0,
    past_the_rate=0,
    wrong_for_clients=0,
    leaks=0,
    raw_controls=0,
    replaced=0,
    gateway_mib=12.0,
    alerts_mib=2.0,
)
KILLED = killed.Figures(faults=[TRITON], wrong=0, without_retry_after=0, failed_in_peace=0, log=LOG, missing=0, left_mib=0.0)


def broken_by(promises: list[Promise]) -> list[str]:
    return [promise.what for promise in promises if not promise.is_kept]


def test_good_numbers_break_no_promise() -> None:
    assert broken_by([*swaps.judge(SWAPS), *overload.judge(OVERLOAD), *killed.judge(KILLED), *intruder.judge(INTRUDER)]) == []


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"done": 19}, "swaps that were not done"),
        ({"requests": 0}, "requests during swaps"),
        ({"failed": 1}, "failed answers"),
        ({"wrong": 1}, "wrong answers"),
        ({"ratio": 2.1}, "P99 during swaps / steady"),
        ({"ratio": nan}, "P99 during swaps / steady"),
        ({"ratio": inf}, "P99 during swaps / steady"),
        ({"triton_growth": 120.0}, "Triton grows by"),
        ({"gateway_growth": 60.0}, "the gateway grows by"),
        ({"astray": 1}, "of table, registry, gateway and Triton, do not name the last version"),
    ],
)
def test_swaps_are_judged(change: dict[str, float], promise: str) -> None:
    assert broken_by(swaps.judge(SWAPS._replace(**change))) == [promise]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"requests": 0}, "requests in the overload"),
        ({"refused": 0}, "refused with 503: it was one"),
        ({"other": 1}, "neither 200 nor 503"),
        ({"without_retry_after": 1}, "503 without Retry-After"),
        ({"failed_before": 1}, "refused or failed before the overload"),
        ({"wrong": 1}, "wrong answers"),
        ({"answered_share": 0.1}, "answered in the overload, of capacity"),
        ({"accepted_p99_ms": 2600.0}, "P99 of the answered ones in the overload"),
        ({"accepted_p99_ms": nan}, "P99 of the answered ones in the overload"),
        ({"refused_p99_ms": 9000.0}, "P99 of the refused ones"),
        ({"recovery_s": 8.0}, "P99 is normal again after"),
        ({"recovery_s": inf}, "P99 is normal again after"),
        ({"gateway_peak": 90.0}, "the gateway grows at most by"),
        ({"gateway_creep": 20.0}, "the gateway creeps, within the overload, by"),
    ],
)
def test_an_overload_is_judged(change: dict[str, float], promise: str) -> None:
    assert broken_by(overload.judge(OVERLOAD._replace(**change))) == [promise]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"faults": [TRITON, TRITON._replace(outage_s=40.0)]}, "Triton killed, 2 x: longest outage"),
        ({"faults": [TRITON, TRITON._replace(outage_s=inf)]}, "Triton killed, 2 x: longest outage"),
        ({"faults": [TRITON._replace(not_allowed=1)]}, "  ended otherwise than allowed"),
        ({"faults": [TRITON._replace(not_answered={})]}, "not answered: it was felt"),
        ({"wrong": 1}, "wrong answers"),
        ({"without_retry_after": 1}, "503 without Retry-After"),
        ({"failed_in_peace": 1}, "refused or failed before the first kill"),
        ({"log": LOG._replace(stored=940)}, "answers neither in the prediction log nor counted as lost"),
        ({"log": LOG._replace(counted=54.0)}, "answers neither in the prediction log nor counted as lost"),
        ({"log": LOG._replace(counted=nan)}, "answers neither in the prediction log nor counted as lost"),
        ({"missing": 1}, "processes that are not there at the end"),
        ({"left_mib": 2.0}, "shared memory left behind by the killed"),
    ],
)
def test_kills_are_judged(change: dict[str, object], promise: str) -> None:
    assert broken_by(killed.judge(KILLED._replace(**change))) == [promise]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"requests": 0}, "requests of the normal caller"),
        ({"failed": 1}, "refused or failed of these"),
        ({"wrong": 1}, "wrong answers to these"),
        ({"attempts": 0}, "attempts of the intruder"),
        ({"unexpected": 1}, "that ended neither refused nor harmless"),
        ({"uncounted": 1}, "refusals that were not counted"),
        ({"forged_rows": 1}, "rows that forged calls have written"),
        ({"past_the_rate": 1}, "answers past the rate limit"),
        ({"wrong_for_clients": 1}, "wrong answers to foreign clients, or after them"),
        ({"leaks": 1}, "files and arguments that hold a secret"),
        ({"raw_controls": 1}, "logs with characters that a terminal obeys"),
        ({"replaced": 1}, "processes that ended or were replaced"),
        ({"gateway_mib": 1615.0}, "the gateway grows at most by"),
        ({"alerts_mib": 409.0}, "receiver and inbox grow at most by"),
    ],
)
def test_an_intruder_is_judged(change: dict[str, float], promise: str) -> None:
    assert broken_by(intruder.judge(INTRUDER._replace(**change))) == [promise]


def test_the_command_ends_with_1_when_a_promise_was_broken(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeline = Timeline("by hand", traffic_of([200]), [Sample(0.0, 40.0, 400.0, 200.0, 2)], [], [])
    for figures, code in ((SWAPS, 0), (SWAPS._replace(wrong=1), 1)):
        result = Outcome("made-up", "by hand", swaps.judge(figures), [], {}), timeline
        monkeypatch.setattr(drill, "DRILLS", {"made-up": drill.Drill("by hand", lambda *_, result=result: result)})
        options = drill.arguments().parse_args(["made-up", "--out", str(tmp_path), "--texts", str(ROOT / drill.TEXTS)])
        assert drill.run_drills(options, params, Terminal(file=io.StringIO())) == code
        assert json.loads((tmp_path / "made-up.json").read_text())["kept"] is not bool(code)


# how figures are computed


def traffic_of(status: list[int], took_ms: list[float] | None = None, per_s: float = 10.0) -> Traffic:
    """Return requests at equal intervals; the first is at second 100 of the clock."""
    at_s = 100.0 + np.arange(len(status)) / per_s
    took = np.array(took_ms or [10.0] * len(status), dtype=np.float32)
    return Traffic(at_s, np.array(status, dtype=np.int16), took, np.zeros(len(status), dtype=np.float32), 0, [], 100.0)


def answers_with(label: str, confidence: float) -> list[tuple[str, int, str]]:
    return [("the kettle leaks", 2, f"{label} {confidence}")]


def test_an_answer_is_wrong_when_another_version_would_have_given_it() -> None:
    answers = {
        2: OfflineAnswers(["damaged", "return"], np.array([[0.80, 0.20]])),
        1: OfflineAnswers(["damaged", "return"], np.array([[0.95, 0.05]])),
    }

    def offline(version: int, texts: list[str]) -> OfflineAnswers:
        assert texts == ["the kettle leaks"]
        return answers[version]

    assert wrong_answers(answers_with("damaged", 0.805), offline, 0.01) == []
    assert len(wrong_answers(answers_with("damaged", 0.95), offline, 0.01)) == 1
    assert len(wrong_answers(answers_with("return", 0.20), offline, 0.01)) == 1
    assert len(wrong_answers(answers_with("unheard_of", 0.80), offline, 0.01)) == 1
    assert len(wrong_answers(answers_with("damaged", nan), offline, 0.01)) == 1


def test_of_two_classes_that_are_as_probable_either_is_right() -> None:
    tie = OfflineAnswers(["damaged", "return"], np.array([[0.505, 0.495]]))
    assert wrong_answers(answers_with("return", 0.497), lambda _version, _texts: tie, 0.01) == []
    assert len(wrong_answers(answers_with("return", 0.497), lambda _version, _texts: tie, 0.001)) == 1


def test_recovery_is_counted_to_the_first_whole_window_that_is_normal() -> None:
    slow = traffic_of([200] * 100, [900.0] * 30 + [10.0] * 70)  # 3 s slow, then quick
    assert overload.seconds_until_normal(slow, 100.0, 50.0) == pytest.approx(3.0)
    refused = traffic_of([503] * 45 + [200] * 55)
    assert overload.seconds_until_normal(refused, 100.0, 50.0) == pytest.approx(4.5)
    assert overload.seconds_until_normal(traffic_of([200] * 100), 100.0, 50.0) == 0
    assert overload.seconds_until_normal(traffic_of([503] * 100), 100.0, 50.0) == inf


def test_an_outage_lasts_from_the_kill_to_the_last_request_that_was_not_answered() -> None:
    kills = [killed.Kill("triton", 102.0, 1.0), killed.Kill("gateway", 106.0, 1.0)]
    sent = traffic_of([200] * 19 + [503] * 10 + [200] * 31 + [LOST, *[REFUSED] * 9] + [200] * 30)
    triton, gateway = killed.to_faults(kills, sent, on_the_way_s=0.5)
    assert triton.outage_s == pytest.approx(0.8)
    assert (triton.not_answered, triton.not_allowed) == ({"503": 10}, 0)
    assert gateway.outage_s == pytest.approx(0.9)
    assert (gateway.not_answered, gateway.not_allowed) == ({"no connection": 9, "connection lost": 1}, 0)


def test_a_server_that_fails_at_the_end_never_came_back_and_a_timeout_is_never_allowed() -> None:
    half = traffic_of([200, 503] * 40)
    (fault,) = killed.to_faults([killed.Kill("model", 102.0, inf)], half, on_the_way_s=0.5)
    assert fault.outage_s == inf
    (fault,) = killed.to_faults([killed.Kill("model", 102.0, 1.0)], half, on_the_way_s=0.5)
    assert fault.outage_s == inf
    (fault,) = killed.to_faults(
        [killed.Kill("gateway", 102.0, 1.0)], traffic_of([200] * 20 + [TIMEOUT] + [200] * 40), on_the_way_s=0.5
    )
    assert fault.not_allowed == 1


def test_swaps_are_cut_into_about_equal_blocks() -> None:
    assert swaps.block_sizes(1000) == [50] * 20
    assert swaps.block_sizes(32) == [7, 7, 6, 6, 6]
    assert swaps.block_sizes(3) == [3]
    assert swaps.block_sizes(1) == [1]


def test_a_block_is_compared_with_the_quiet_before_and_after_it() -> None:
    took_ms = [10.0] * 50 + [40.0] * 50 + [20.0] * 60
    blocks = [swaps.Block(105.0, 110.0, [{}] * 4)]
    assert swaps.ratios(blocks, traffic_of([200] * 160, took_ms)) == [(40.0, 20.0)]
    failing = traffic_of([200] * 60 + [503] + [200] * 99, took_ms)
    assert swaps.ratios(blocks, failing)[0][0] == inf


def test_growth_is_the_slope_of_the_second_half_of_the_quiet_stretches() -> None:
    blocks = [swaps.Block(110.0 + 20 * n, 120.0 + 20 * n, [{}] * 10) for n in range(4)]
    samples = [Sample(100.0 + n, 40.0 + max(0, n - 50), 0.0, 200.0, 2) for n in range(100)]  # MiB: one a second after 50 s
    levels = swaps.quiet_levels(blocks, traffic_of([200] * 1000), samples, "triton")
    assert levels[0] == 40.0
    assert swaps.growth_per_100_swaps(blocks, levels) == pytest.approx(200.0, rel=0.1)  # 20 s and 10 swaps from quiet to quiet
    assert swaps.growth_per_100_swaps(blocks, swaps.quiet_levels(blocks, traffic_of([200] * 1000), samples, "gateway")) == 0


def test_an_outlier_does_not_change_a_slope_and_a_single_point_has_none() -> None:
    assert slope([0, 1, 2, 3, 4, 5, 6], [1.0, 2.0, 90.0, 4.0, 5.0, 6.0, 7.0]) == pytest.approx(1.0)
    assert np.isnan(slope([0], [1.0]))
    assert np.isnan(median_between([], "triton", 0.0, 1.0))
