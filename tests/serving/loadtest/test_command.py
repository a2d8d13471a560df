"""`evergreen loadtest`: its table, its report, and its errors before the load."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, ToolError
from pipeline.output.terminal import Terminal
from pipeline.params import Params
from serving.loadtest import (
    Limit,
    Result,
    command,
    loadtest,
    read_texts,
)
from serving.loadtest.result import spread
from serving.loadtest.targets import Target
from tests.conftest import ROOT
from tests.serving.loadtest.conftest import TEXTS, Running


def texts_file(folder: Path) -> Path:
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["number", "text"], *enumerate(TEXTS[:100])])
    return folder / "texts.csv"


def test_the_command_prints_a_table_and_writes_a_report(server: Running, params: Params, tmp_path: Path) -> None:
    console = Terminal(record=True, width=140)
    measured = loadtest(
        server.url, texts_file(tmp_path), params.data, console, rate=200, duration_s=1, warm_s=0.2, folder=tmp_path / "out"
    )
    assert isinstance(measured, Result)
    output = console.export_text()
    assert "200: " in output
    assert str(tmp_path / "out" / "loadtest.png") in output.replace("\n", "")
    written = json.loads((tmp_path / "out" / "loadtest.json").read_text())
    assert sum(written["status"].values()) == written["requests"] == len(measured.at_s)
    assert written["latency_ms"]["p99"] == pytest.approx(spread(measured.latency_ms[measured.ok])["p99"])
    assert (tmp_path / "out" / "loadtest.png").stat().st_size > 10_000


def test_without_a_rate_the_command_searches_for_one(server: Running, params: Params, tmp_path: Path) -> None:
    console = Terminal(record=True, width=140)
    measured = loadtest(
        server.url, texts_file(tmp_path), params.data, console, low=400, high=400, duration_s=1, warm_s=0, folder=tmp_path / "out"
    )
    assert isinstance(measured, Limit)
    assert measured.rate_per_s == 400
    assert "400 requests/s at P99 ≤ 50 ms" in console.export_text()


def test_a_target_without_a_readable_answer_is_an_error_before_the_load(server: Running, params: Params, tmp_path: Path) -> None:
    file, console = texts_file(tmp_path), Terminal(record=True)
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


def test_the_token_of_the_environment_is_sent_to_a_gateway_and_to_no_other_server(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_TOKEN", "evg_secret")
    headers: list[Mapping[str, str]] = []

    def refuse(target: Target, *_: Any) -> None:
        headers.append(target.headers)
        raise ToolError(target.url, "seen", "")

    monkeypatch.setattr(command, "require_answer", refuse)
    file, console = texts_file(tmp_path), Terminal(record=True)
    for options in ({}, {"headers": ["Authorization: mine"]}, {"body": '{"x": "{text}"}'}, {"triton_model": "intent-1"}):
        with pytest.raises(ToolError, match="seen"):
            loadtest("http://127.0.0.1:1", file, params.data, console, rate=1, **options)  # type: ignore[arg-type]
    assert headers == [{"authorization": "Bearer evg_secret"}, {"authorization": "mine"}, {}, {}]


def test_texts_are_read_from_tables_and_from_plain_lines(params: Params, tmp_path: Path) -> None:
    assert read_texts(texts_file(tmp_path), params.data) == TEXTS[:100]
    assert read_texts(ROOT / "data/support_desk.jsonl", params.data) == TEXTS
    (tmp_path / "lines.txt").write_text("one\n\n  two \n", encoding="utf-8")
    assert read_texts(tmp_path / "lines.txt", params.data) == ["one", "two"]
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "missing.txt", "missing.csv"):
        with pytest.raises(InputError):
            read_texts(tmp_path / name, params.data)
