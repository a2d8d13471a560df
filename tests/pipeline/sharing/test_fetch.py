"""Fetch: a data set becomes a jsonl file with class names, or one clear error."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.columns import find_columns
from pipeline.data.row_files import read_rows
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.sharing.fetch import fetch

datasets = pytest.importorskip("datasets")

NAMES = ["cancel", "refund", "track"]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the network and the user's caches."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "desk"
    path.mkdir()
    return path


def fetched(name: Path, out: Path, split: str = "train") -> list[dict[str, Any]]:
    rows = fetch(str(name), config=None, split=split, revision=None, out=out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows == len(lines)
    return lines


def numbered(folder: Path, labels: list[int | None]) -> None:
    """Write a parquet data set whose labels are numbers of named classes, like most hub data sets."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"text": [f"text {n}" for n in range(len(labels))], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "text,label\nwhere is it,track\nnaïve 東京,refund\n"),
        ("train.jsonl", '{"text": "where is it", "label": "track"}\n{"text": "naïve 東京", "label": "refund"}\n'),
    ],
)
def test_a_local_folder_becomes_jsonl(folder: Path, tmp_path: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    out = tmp_path / "data" / "fetched.jsonl"
    assert fetched(folder, out) == [{"text": "where is it", "label": "track"}, {"text": "naïve 東京", "label": "refund"}]
    assert "東京" in out.read_text(encoding="utf-8")


def test_class_numbers_become_their_names(folder: Path, tmp_path: Path) -> None:
    numbered(folder, [2, 0, 1, 2])
    assert [row["label"] for row in fetched(folder, tmp_path / "out.jsonl")] == ["track", "cancel", "refund", "track"]


@pytest.mark.parametrize("nothing", [None, -1])  # -1 is how hidden test labels are marked
def test_a_row_without_a_class_has_no_label(folder: Path, tmp_path: Path, nothing: int | None) -> None:
    numbered(folder, [2, nothing])
    assert [row["label"] for row in fetched(folder, tmp_path / "out.jsonl")] == ["track", None]


def test_a_fetched_file_can_be_read(folder: Path, tmp_path: Path, params: Params) -> None:
    numbered(folder, [2, 0])
    fetched(folder, tmp_path / "out.jsonl")
    rows = list(read_rows(tmp_path / "out.jsonl", params.data))
    assert find_columns(tmp_path / "out.jsonl", rows[0].fields or {}, params.data)[:2] == ("text", "label")
    assert len(rows) == 2


def test_another_split_is_another_file(folder: Path, tmp_path: Path) -> None:
    (folder / "train.csv").write_text("text,label\none,a\n")
    (folder / "test.csv").write_text("text,label\ntwo,b\n")
    assert fetched(folder, tmp_path / "out.jsonl", split="test") == [{"text": "two", "label": "b"}]


def refused(name: str, out: Path, split: str = "train") -> InputError:
    with pytest.raises(InputError) as caught:
        fetch(name, config=None, split=split, revision=None, out=out)
    assert not out.exists()
    return caught.value


def test_an_unknown_data_set_is_refused_by_name(tmp_path: Path) -> None:
    error = refused("nobody/has-this-data-set", tmp_path / "out.jsonl")
    assert "nobody/has-this-data-set" in error.where
    assert "data.source" in error.do


def test_an_unknown_split_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    (folder / "train.csv").write_text("text,label\none,a\n")
    assert "nonsense" in refused(str(folder), tmp_path / "out.jsonl", split="nonsense").what


def test_an_empty_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    assert "did not return it" in refused(str(folder), tmp_path / "out.jsonl").what
