"""Files in, files out: every column is kept in every format, and a file appears whole or not at all."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.params import Params
from serving.batch_prediction.input_rows import open_input, stored_stdin
from serving.batch_prediction.output_files import FORMATS
from serving.batch_prediction.predict_file import Output, check_target, predict_file
from serving.batch_prediction.predict_rows import RowAnswer, Summary

ROWS = [
    {"id": 7, "text": "where is my parcel?", "note": "a, b"},
    {"id": 8, "text": "", "note": '=1+1 "x"'},
    {"id": 9, "text": "la bouilloire\nfuit", "note": "é\u202e"},
]
LABELS = ("refund", "track, it")


class Fixed:
    """Answers every text alike."""

    labels: Sequence[str] = LABELS
    chunk, calls, is_remote = 2, 1, False

    def predict(self, texts: Sequence[str]) -> list[RowAnswer]:
        return [RowAnswer("track, it", 0.75, (0.25, 0.75), 4, "") for _ in texts]


class Failing(Fixed):
    """Fails on the second chunk."""

    def predict(self, texts: Sequence[str]) -> list[RowAnswer]:
        if any("fuit" in text for text in texts):
            raise OSError("gone")
        return super().predict(texts)


def write_input(folder: Path, suffix: str) -> Path:
    path = folder / f"in{suffix}"
    if suffix == ".parquet":
        typed = [{**row, "at": datetime(2026, 3, 1, 12, row["id"])} for row in ROWS]  # type: ignore[arg-type]
        pq.write_table(pa.Table.from_pylist(typed), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0], delimiter="," if suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    return path


def run(source: Path, target: Path, params: Params, model: Fixed | None = None, **options: object) -> Summary:
    settings = {"prefix": "", "has_probabilities": True, "is_for_spreadsheets": False, **options}
    file = open_input(source, params.data, None)
    return predict_file(file, Output(target, target.suffix, **settings), model or Fixed(), params.data, lambda _: None)  # type: ignore[arg-type]


def read_output(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_every_format_becomes_every_format_with_all_columns(source: str, target: str, params: Params, tmp_path: Path) -> None:
    summary = run(write_input(tmp_path, source), tmp_path / f"out{target}", params)
    written = read_output(tmp_path / f"out{target}")
    assert (summary.rows, summary.unlabelled) == (3, 1)
    assert [str(row["id"]) for row in written] == ["7", "8", "9"]
    assert [row["note"] for row in written] == [row["note"] for row in ROWS]
    assert [row["predicted_label"] or None for row in written] == ["track, it", None, "track, it"]
    assert [row["reason"] or "" for row in written][1].endswith(("text is empty", "text is missing"))
    assert float(str(written[0]["confidence"])) == 0.75
    assert int(str(written[2]["model_version"])) == 4
    if target == ".jsonl":
        assert written[0]["probabilities"] == {"refund": 0.25, "track, it": 0.75}
        assert written[1]["probabilities"] is None
    else:
        assert float(str(written[0]["probability_track, it"])) == 0.75
    if target == ".parquet":
        assert pq.read_schema(tmp_path / "out.parquet").field("id").type == (
            pa.string() if source in (".csv", ".tsv") else pa.int64()
        )
        if source == ".parquet":
            assert written[0]["at"] == datetime(2026, 3, 1, 12, 7)


def test_a_row_that_cannot_be_parsed_is_written_with_its_line(params: Params, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,hello\n2,a,b\n3,bye\n", encoding="utf-8")
    assert run(tmp_path / "in.csv", tmp_path / "out.csv", params).unlabelled == 1
    rows = read_output(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == ["1", "", "3"]
    assert rows[1]["reason"] == "line 3: the header has 2 fields, this row 3"


def test_values_of_several_types_and_lone_surrogates_reach_parquet(params: Params, tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "v": 1, "n": 1, "big": 9007199254740993, "mixed": 9007199254740993}',
        '{"text": "b", "v": {"k": [1]}, "n": 2.5, "mixed": 0.5}',
        '{"text": "c", "v": "\\ud800"}',
        "{",
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for suffix in FORMATS:
        assert run(tmp_path / "in.jsonl", tmp_path / f"out{suffix}", params).unlabelled == 1
    rows = read_output(tmp_path / "out.parquet")
    assert [row["v"] for row in rows] == ["1", '{"k": [1]}', "\\ud800", None]
    assert [row["n"] for row in rows] == [1.0, 2.5, None, None]
    assert rows[0]["big"] == 9007199254740993
    assert [row["mixed"] for row in rows][:2] == ["9007199254740993", "0.5"]
    assert read_output(tmp_path / "out.jsonl")[2]["v"] == "\ud800"


def test_nothing_is_left_when_the_model_fails(params: Params, tmp_path: Path) -> None:
    source = write_input(tmp_path, ".csv")
    for suffix in FORMATS:
        with pytest.raises(OSError, match="gone"):
            run(source, tmp_path / f"out{suffix}", params, Failing())
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_columns_of_the_input_are_never_replaced(params: Params, tmp_path: Path) -> None:
    run(write_input(tmp_path, ".csv"), tmp_path / "once.csv", params)
    with pytest.raises(InputError, match="already has the columns confidence"):
        run(tmp_path / "once.csv", tmp_path / "twice.csv", params)
    run(tmp_path / "once.csv", tmp_path / "twice.csv", params, prefix="again_")
    assert read_output(tmp_path / "twice.csv")[0]["again_predicted_label"] == "track, it"


def test_probabilities_can_be_left_out_and_cells_made_safe_for_spreadsheets(params: Params, tmp_path: Path) -> None:
    run(write_input(tmp_path, ".csv"), tmp_path / "out.csv", params, has_probabilities=False, is_for_spreadsheets=True)
    rows = read_output(tmp_path / "out.csv")
    assert list(rows[0]) == ["id", "text", "note", "predicted_label", "confidence", "model_version", "reason"]
    assert rows[1]["note"] == '\'=1+1 "x"'


def test_a_file_that_exists_is_replaced_only_on_demand_and_the_input_never(tmp_path: Path) -> None:
    source = write_input(tmp_path, ".csv")
    (tmp_path / "out.csv").touch()
    with pytest.raises(InputError, match="the file exists"):
        check_target(source, tmp_path / "out.csv", is_replaced=False)
    assert check_target(source, tmp_path / "out.csv", is_replaced=True) == ".csv"
    with pytest.raises(InputError, match="the file with the texts"):
        check_target(source, source, is_replaced=True)
    with pytest.raises(InputError, match="cannot be written"):
        check_target(source, tmp_path / "out.xlsx", is_replaced=False)


def test_the_text_column_can_be_named(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("subject,body\nhello,where is it?\n", encoding="utf-8")
    file = open_input(path, params.data, "body")
    assert (file.text_column, file.names, file.rows) == ("body", ["subject", "body"], 1)
    with pytest.raises(InputError, match="there is no column `bdy`"):
        open_input(path, params.data, "bdy")
    with pytest.raises(InputError, match="no column is named text"):
        open_input(path, params.data, None)


def test_a_file_without_rows_gives_a_file_without_rows(params: Params, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\n", encoding="utf-8")
    assert run(tmp_path / "in.csv", tmp_path / "out.csv", params).rows == 0
    assert read_output(tmp_path / "out.csv") == []


def test_stdin_is_read_as_a_file(params: Params) -> None:
    with stored_stdin(io.BytesIO(b"text\nhello\n"), ".csv") as path:
        assert open_input(path, params.data, None).rows == 1
    assert not path.exists()


def test_a_line_of_json_that_is_read_as_a_table_is_refused_and_the_option_is_named(tmp_path: Path, params: Params) -> None:
    path = tmp_path / "in.csv"
    path.write_text('{"text": "hello"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"this is JSON, not a table\n.*--format jsonl"):
        open_input(path, params.data, None)


@pytest.mark.parametrize("target", [".csv", ".tsv"])
def test_a_carriage_return_in_a_cell_ends_no_row(target: str, params: Params, tmp_path: Path) -> None:
    notes = ["old\rMac", "Windows\r\n", "\r"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": "where is it?", "note": note}) + "\n" for note in notes), encoding="utf-8")
    run(source, tmp_path / f"out{target}", params)
    assert [row["note"] for row in read_output(tmp_path / f"out{target}")] == notes
    assert (tmp_path / f"out{target}").read_bytes().count(b"\r\n") == 1, "rows end in a line feed"
