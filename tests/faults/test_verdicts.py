"""Check that bad figures break the promises of the drills, and good ones do not."""

import io
import json
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from pipeline.output.terminal import Terminal
from pipeline.params import Params
from tests.conftest import ROOT
from tests.faults import drill
from tests.faults.intrusion import intruder
from tests.faults.memory import Sample
from tests.faults.scorecard import Outcome, broken
from tests.faults.serving import killed, overload, swaps
from tests.faults.timeline import Timeline
from tests.faults.traffic import Traffic

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


def test_good_numbers_break_no_promise() -> None:
    assert broken([*swaps.judge(SWAPS), *overload.judge(OVERLOAD), *killed.judge(KILLED), *intruder.judge(INTRUDER)]) == []


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
    assert broken(swaps.judge(SWAPS._replace(**change))) == [promise]


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
    assert broken(overload.judge(OVERLOAD._replace(**change))) == [promise]


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
    assert broken(killed.judge(KILLED._replace(**change))) == [promise]


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
    assert broken(intruder.judge(INTRUDER._replace(**change))) == [promise]


def test_the_command_ends_with_1_when_a_promise_was_broken(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_s, took_ms, late_ms = np.array([100.0]), np.array([10.0], dtype=np.float32), np.zeros(1, dtype=np.float32)
    traffic = Traffic(at_s, np.array([200], dtype=np.int16), took_ms, late_ms, 0, [], began_s=100.0)
    timeline = Timeline("by hand", traffic, [Sample(0.0, 40.0, 400.0, 200.0, 2)], [], [])
    for figures, code in ((SWAPS, 0), (SWAPS._replace(wrong=1), 1)):
        result = Outcome("made-up", "by hand", swaps.judge(figures), [], {}), timeline
        monkeypatch.setattr(drill, "DRILLS", {"made-up": drill.Drill("by hand", lambda *_, result=result: result)})
        options = drill.arguments().parse_args(["made-up", "--out", str(tmp_path), "--texts", str(ROOT / drill.TEXTS)])
        assert drill.run_drills(options, params, Terminal(file=io.StringIO())) == code
        assert json.loads((tmp_path / "made-up.json").read_text())["kept"] is not bool(code)
