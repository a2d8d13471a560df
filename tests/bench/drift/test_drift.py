"""Check the drift bench's counts and bounds against values computed by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from monitoring.detectors.e_detector import shiryaev_roberts
from monitoring.detectors.e_process import bernoulli_payoffs
from pipeline.output.terminal import Terminal
from tests.bench.drift.__main__ import peers
from tests.bench.drift.embedded import Texts, fit_head
from tests.bench.drift.errors import AFTER, CHANGE, simulated_threshold, streams, summarise
from tests.bench.drift.windows import Quiet
from tests.bench.drift.worlds import mixed, wrongly_labelled


def texts(count: int, word: str) -> Texts:
    names = np.array([f"{word} {row}" for row in range(count)])
    numbers = np.zeros((count, 2), dtype=np.float32)
    return Texts(names, names, numbers, numbers.astype(np.float16), numbers[:, 0], numbers[:, 0], names, names)


def test_delays_count_from_the_change_and_an_alarm_before_it_is_no_delay() -> None:
    result = summarise("any", np.array([-1, 50, -1, -1]), np.array([10, CHANGE, CHANGE + 99, -1]))
    assert result.false_alarms == 0.25
    assert result.delays == [1, 100, AFTER]
    assert result.missed == pytest.approx(1 / 3)
    assert result.median == 100


def test_streams_change_at_the_stated_item() -> None:
    null, changed = streams(200, 1)
    assert null.mean() == pytest.approx(0.10, abs=0.002)
    assert changed[:, :CHANGE].mean() == pytest.approx(0.10, abs=0.003)
    assert changed[:, CHANGE:].mean() == pytest.approx(0.15, abs=0.003)


def test_a_simulated_threshold_keeps_its_promise_on_new_streams() -> None:
    table, weights = bernoulli_payoffs(0.10, np.array([0.12, 0.15, 0.2, 0.3])), np.full(4, 0.25)
    rates = np.array([0.9, 0.1])
    threshold = simulated_threshold(
        table, rates, weights, kind="shiryaev-roberts", horizon=1000, alpha=0.1, streams=3000, rng=np.random.default_rng(1)
    )
    assert threshold < 1000 / 0.1  # the proved threshold
    rng, runs = np.random.default_rng(2), 800
    alarms = 0
    for _ in range(runs):
        payoffs = table[:, (rng.random(1000) < 0.10).astype(np.int64)].T
        alarms += bool((shiryaev_roberts(payoffs, np.zeros(4))[0] @ weights >= threshold).any())
    assert 0.1 - 4 * np.sqrt(0.09 / runs) < alarms / runs <= 0.1 + 2 * np.sqrt(0.09 / runs)


def test_chance_exceeds_the_joint_bound_in_at_most_one_bench_of_twenty() -> None:
    setting = Quiet("any", 200, 0.05, 200, 9, 5, 4, {})
    beyond = binom.sf(round(setting.bound(12) * 200), 200, 0.05)
    assert 12 * beyond <= 0.05
    assert setting.rate == 0.045


def test_a_mixture_has_the_requested_share() -> None:
    result = mixed(texts(500, "known"), wrongly_labelled(texts(50, "other")), 0.1, 200, np.random.default_rng(1))
    assert len(result.text) == 200
    assert (result.label == "foreign").sum() == 20
    assert len(set(result.text)) == 200


def test_a_head_learns_classes_and_returns_their_probabilities() -> None:
    label = np.array(["left", "middle", "right"] * 100)
    centres = np.array([[-4, 0], [0, 4], [4, 0]] * 100)
    embedding = np.random.default_rng(1).normal(centres, 1).astype(np.float32)
    head = fit_head(texts(300, "any")._replace(label=label, embedding=embedding), seed=1)
    probabilities = head(embedding)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert (head.labels[probabilities.argmax(axis=1)] == label).mean() > 0.95


def test_the_controls_run_with_a_python_at_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("python").write_text('#!/bin/sh\necho \'{"import_s": 1.5}\' > "$3"\n')
    Path("python").chmod(0o755)
    with peers(Path("python"), {"null": np.zeros(3)}, Terminal()) as results:
        assert results() == {"import_s": 1.5}
