"""Run the drills in small on one real stack, in the order of this file."""

import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf, isfinite
from pathlib import Path

import pytest
import requests
from PIL import Image

from pipeline.output.terminal import Terminal
from serving.loadtest import read_texts
from tests.bench.meter import Meter, Pace
from tests.conftest import Project
from tests.faults import drill
from tests.faults.intrusion import intruder
from tests.faults.intrusion.environment import with_tokens
from tests.faults.running_stack import DrillSettings, RunningStack, running_stack
from tests.faults.scorecard import Outcome, broken
from tests.faults.serving import killed, overload, swaps

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


def test_three_swaps_under_load_fail_no_request_and_all_sources_agree(running: RunningStack, tmp_path: Path) -> None:
    outcome, timeline = swaps.run(running, swaps.Amount(swaps=3, quiet_s=2.0, stretch_s=2.0))
    timed = {promise.what for promise in outcome.promises if promise.goal == "S7b"}
    assert set(broken(outcome.promises)) <= timed, outcome.notes  # three swaps are too few for these
    assert set(outcome.figures["champions"].values()) == {1}
    assert isfinite(outcome.figures["ratio"])
    assert outcome.figures["swap_s"]["median"] > 0
    drill.report(outcome, timeline, tmp_path, running.setting.console)
    check_report(tmp_path, "swaps", outcome)


def test_a_flood_is_refused_with_503_and_leaves_no_failures_behind(running: RunningStack, tmp_path: Path) -> None:
    """Bound the gateway's peak only: in six seconds caches and buffers still fill, which looks like steady growth."""
    outcome, timeline = overload.run(running, overload.Amount(normal_s=4.0, overload_s=6.0, times=12.0))
    too_short_for = ("the gateway creeps, within the overload, by", "P99 is normal again after")
    assert set(broken(outcome.promises)) <= set(too_short_for), outcome.notes
    sent = timeline.traffic
    assert sent.ok[sent.at_s > sent.at_s[-1] - overload.WINDOW_S].all()  # no failures at the end
    drill.report(outcome, timeline, tmp_path, running.setting.console)
    check_report(tmp_path, "overload", outcome)


def test_a_killed_triton_comes_back_and_no_answer_is_wrong(running: RunningStack, tmp_path: Path) -> None:
    dense = running._replace(capacity_per_s=running.capacity_per_s / SHARE)  # even one second without Triton fails requests
    for _ in range(4):  # on a busy machine no request may be due while Triton is away; such a kill proves nothing
        outcome, timeline = killed.run(dense, killed.Amount(["triton"], quiet_s=2.0, stretch_s=2.0))
        if broken(outcome.promises) != [killed.FELT]:
            break
    assert broken(outcome.promises) == [], outcome.notes
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
    assert broken(outcome.promises) == [], outcome.notes
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
