"""Two models on the same test rows: counts, tests and what changed, against values worked out by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.cells import cell_len

from evergreen.comparing import class_lines, fit, param_lines, summary_lines, text_lines
from monitoring.detectors.paired_test import PairCounts
from monitoring.retrain.gate.checks import check_old_rows, levels
from monitoring.retrain.history.compared_models import flat_params
from monitoring.retrain.history.comparison import ComparedModel, Comparison, compare
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.row_predictions import RowPrediction, read_predictions, referenced_predictions, write_predictions


def model(title: str, answers: str, truth: str, *, params: dict[str, str] | None = None, first: int = 0) -> ComparedModel:
    """Return a model that gives row n the n-th letter as its label."""
    pairs = enumerate(zip(truth, answers, strict=True), start=first)
    rows = [RowPrediction(f"id{n}", right, said, 0.75) for n, (right, said) in pairs]
    return ComparedModel(title, rows, params or {}, {row.id: f"text of {row.id}" for row in rows})


def compared(params: Params, a: ComparedModel, b: ComparedModel) -> Comparison:
    return compare(a, b, params.gate, 0.95)


def test_rows_gained_and_lost_are_counted_by_row_class_and_text(params: Params) -> None:
    a = model("A", "xxyyzz", "xyyyzz")
    b = model("B", "xyyxzx", "xyyyzz")
    found = compared(params, a, b)
    assert found.counts == PairCounts(6, 1, 2)
    assert (found.accuracy.a, found.accuracy.b) == (pytest.approx(5 / 6), pytest.approx(4 / 6))
    assert [(change.label, change.counts.gained, change.counts.lost) for change in found.classes] == [("z", 0, 1), ("y", 1, 1)]
    assert [(change.text, change.a, change.b, change.kind) for change in found.texts] == [
        ("text of id3", "y", "x", "lost"),
        ("text of id5", "z", "x", "lost"),
        ("text of id1", "x", "y", "gained"),
    ]
    assert found.p_value == 1.0  # two of three discordant rows
    assert found.low < found.counts.difference < found.high


def test_the_test_is_exact_and_the_interval_holds_the_difference(params: Params) -> None:
    truth = "x" * 100
    found = compared(params, model("A", "y" * 10 + "x" * 90, truth), model("B", "x" * 98 + "yy", truth))
    assert found.counts == PairCounts(100, 10, 2)
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert 0 < found.low < 0.08 < found.high
    mirrored = compared(params, model("B", "x" * 98 + "yy", truth), model("A", "y" * 10 + "x" * 90, truth))
    assert (mirrored.low, mirrored.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 3), (0, 20), (30, 5)])
def test_the_gates_answer_is_the_gates(params: Params, gained: int, lost: int) -> None:
    truth = "x" * 200
    a = model("A", "y" * gained + "x" * (200 - gained), truth)
    b = model("B", "x" * (200 - lost) + "y" * lost, truth)
    level = levels(params.gate, tests_new_rows=False).old_rows
    refused = bool(check_old_rows(PairCounts(200, gained, lost), params.gate, level).failures)
    assert compared(params, a, b).gate_passes is not refused


def test_only_common_rows_count_and_the_label_of_b(params: Params) -> None:
    a = model("A", "xxxx", "xxyx")
    b = model("B", "yxx", "yxx", first=2)
    found = compared(params, a, b)
    assert (found.counts.rows, found.only_a, found.only_b, found.relabelled) == (2, 2, 1, 0)
    other = compared(params, a, model("B", "yy", "yy", first=0))
    assert (other.relabelled, other.counts) == (2, PairCounts(2, 2, 0))
    with pytest.raises(InputError, match="different test rows"):
        compared(params, a, model("B", "x", "x", first=90))


def test_a_text_that_stands_twice_in_a_test_file_is_compared_twice(params: Params) -> None:
    rows = [RowPrediction("same", "x", "x", 0.5), RowPrediction("same", "x", "y", 0.5)]
    a = ComparedModel("A", rows, {}, {})
    found = compared(params, a, a._replace(rows=rows[::-1]))
    assert found.counts == PairCounts(2, 1, 1)
    assert found.texts[0].text == "same"  # the id, where no text is known


def test_params_are_compared_where_both_have_their_section(params: Params) -> None:
    a = model("A", "x", "x", params={"train.epochs": "6", "train.seed": "7", "model.base": "m"})
    b = model("B", "x", "x", params={"train.epochs": "8", "train.seed": "7", "gateway.port": "80", "train.new": "1"})
    assert compared(params, a, b).params == [("train.epochs", "6", "8"), ("train.new", "–", "1")]
    assert flat_params("train:\n  epochs: 8\n  encoder_lr: 1.0e-3\nnote: x\n") == {
        "train.epochs": "8",
        "train.encoder_lr": "0.001",
    }


def test_every_line_fits_a_hundred_columns_whatever_the_texts_are(params: Params) -> None:
    labels = {"x": "x" * 300, "y": "客服" * 100, "z": "\x1b[31m\n" * 40}
    rows = [RowPrediction(f"id{n}", labels["xyz"[n % 3]], labels["xyz"[n // 2 % 3]], 0.5) for n in range(60)]
    said_b = [row._replace(predicted=labels["xyz"[n // 3 % 3]]) for n, row in enumerate(rows)]
    texts = {row.id: "🙂 ünï " * 60 for row in rows}
    a = ComparedModel("a" * 300, rows, {f"train.{'k' * 80}": "1" * 200}, texts)
    b = ComparedModel("客" * 300, said_b, {f"train.{'k' * 80}": "2" * 200}, texts)
    found = compared(params, a, b)
    lines = [*summary_lines(a, b, found, 0.95), *class_lines(found, 2), *text_lines(found, 5), *param_lines(found)]
    assert max(cell_len(line) for line in lines) <= 100
    assert not any("\x1b" in line or "\n" in line for line in lines)
    assert any("more (--classes)" in line for line in lines)
    assert fit("客客客", 4) == "客 …"


def test_predictions_of_a_run_and_of_a_packaged_reference_are_read_alike(tmp_path: Path) -> None:
    shares = np.array([[0.25, 0.75], [0.75, 0.25]])
    path = tmp_path / "predictions.parquet"
    write_predictions(path, ["a", "b"], ["no", "yes"], shares, ["yes", "no"])
    expected = [RowPrediction("a", "no", "no", 0.75), RowPrediction("b", "yes", "yes", 0.75)]
    assert read_predictions(path, "here") == expected
    assert read_predictions(pa.BufferReader(path.read_bytes()), "here") == expected
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        read_predictions(tmp_path / "bad.parquet", "here")


def test_a_reference_gives_the_predictions_of_its_rows(params: Params, tmp_path: Path) -> None:
    from tests.monitoring.retrain.gate.small_models import fit as fit_words
    from tests.monitoring.retrain.gate.small_models import load_rows, write_package

    rows = load_rows(params.split)
    package = write_package(fit_words(rows.train[:200]), tmp_path / "package", rows.train[:20])
    read = referenced_predictions(package / "reference.npz")
    assert [row.id for row in read] == [row.id for row in rows.train[:20]]
    assert [row.label for row in read] == [row.predicted for row in read] == [row.label for row in rows.train[:20]]
