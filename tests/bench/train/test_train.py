"""Check the training bench's rows against values computed by hand."""

import io
import json
import sys

import pytest

from tests.bench.train.__main__ import BARS, FULL, OURS, STOCK, TUNED, WRITTEN, Window, to_rows
from tests.bench.train.prefix import Arms, Epoch
from tests.bench.train.prefix import to_rows as to_prefix_rows
from tests.bench.train.rows import Windows

MIB = 2**20


def window(arm: str, seconds: float, *, peak: int = 500, processed: int = 210, lora: str = "r8") -> Window:
    return Window(arm, lora, seconds, seconds, 100, processed, 200, peak * MIB)


def windows_of_two_rounds() -> list[Window]:
    windows = [window(FULL, 30.0, peak=1300, lora="none")]
    for ours, tuned, stock in [(1.0, 2.5, 12.0), (2.0, 4.0, 20.0)]:
        windows += [
            window(OURS, ours),
            window(WRITTEN, ours / 2, peak=600),
            window(TUNED, tuned),
            window(STOCK, stock, processed=580, peak=900),
        ]
    return windows


def test_ratios_are_between_the_windows_of_one_round() -> None:
    rows = {row.goal: row for row in to_rows(windows_of_two_rounds(), idle=100 * MIB) if row.what.startswith(f"{OURS}, LoRA")}
    assert rows["T1a"].ratio is not None
    assert rows["T1b"].ratio is not None
    assert rows["T1a"].ratio.median == pytest.approx(11.0)  # 12 and 10
    assert rows["T1b"].ratio.median == pytest.approx(2.25)  # 2.5 and 2
    assert rows["T1a"].value == pytest.approx(75.0)  # examples a second: 100 and 50
    assert BARS["T1a"].is_met(rows["T1a"])


def test_padding_counts_all_pieces_of_all_windows() -> None:
    (row,) = [row for row in to_rows(windows_of_two_rounds(), idle=0) if row.goal == "T2"]
    assert (row.value, row.control_value) == (pytest.approx(1.05), pytest.approx(2.9))


def test_memory_is_counted_above_that_of_an_idle_process() -> None:
    rows = {row.control: row for row in to_rows(windows_of_two_rounds(), idle=100 * MIB) if row.what.startswith(f"{OURS}: ")}
    assert rows[FULL].value == 400
    assert (rows[FULL].control_value, rows[STOCK].control_value) == (1200, 800)
    assert rows[FULL].ratio is not None
    assert rows[FULL].ratio.median == pytest.approx(3.0)


def test_rows_of_frozen_layers_name_depth_and_precision_and_the_largest_difference_of_a_loss() -> None:
    arms = Arms([Epoch(4.0, 4.0, [1.0, 0.5]), Epoch(6.0, 6.0, [1.0, 0.5])], [Epoch(2.0, 2.0, [1.0, 0.5])] * 2, 1.0)
    speed, losses = to_prefix_rows(arms, 4, "fp32", "r8")
    assert speed.ratio is not None
    assert (speed.goal, speed.value, speed.control_value, speed.ratio.median) == ("T3a", 2.0, 5.0, 2.5)
    assert (losses.goal, losses.value) == ("T3c", 0.0)
    other = arms._replace(cached=[Epoch(2.0, 2.0, [1.1, 0.5])] * 2)
    assert not BARS["T3c"].is_met(list(to_prefix_rows(other, 5, "fp32", "r8"))[1])
    assert [row.goal for row in to_prefix_rows(arms, 5, "bf16", "r8")] == ["T3b bf16", "T3c bf16"]


def test_a_window_counts_from_its_request_to_its_last_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"steps": 2}\n{"steps": 1}\n'))
    windows = Windows()
    assert windows.wait()
    for _ in range(2):
        windows.count(32, 500, 480)
        assert windows.step()
    windows.count(32, 500, 490)
    assert not windows.step()  # no more windows are requested
    _, first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["examples"], first["processed"], first["real"]) == (64, 1000, 960)
    assert (second["examples"], second["real"]) == (32, 490)
    assert first["seconds"] >= 0
