"""The stage `spread`: which texts it takes, what it tells of them, and that training learns from them."""

import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.records import Example, labels_of, read_examples, text_id, write_examples, write_json
from pipeline.spread import read_unlabelled, spread, without_split
from tests.conftest import Project

PARCEL = [
    "where is my parcel?",
    "my parcel has not come",
    "track my parcel please",
    "the parcel is late",
    "when does the parcel come?",
]
MONEY = ["give me my money back", "I want a refund", "refund my order please", "when do I get my refund?", "money back now"]
NEW = {
    "is my parcel on its way?": "parcel",
    "the parcel never arrived": "parcel",
    "please refund me": "money",
    "I want my money": "money",
}


def row(text: str, label: str | None = None) -> Example:
    return Example(id=text_id(text), text=text, label=label)


LABELLED = [*(row(text, "parcel") for text in PARCEL), *(row(text, "money") for text in MONEY)]


@pytest.fixture(scope="module")
def small(params: Params) -> Params:
    return params.model_copy(update={"spread": params.spread.model_copy(update={"neighbours": 8})})


def test_texts_get_the_label_of_those_near_by_and_the_report_says_how_sure(small: Params) -> None:
    made = spread(LABELLED, [row(text) for text in NEW], small.model, small.spread)
    assert dict(zip([one.text for one in made.rows], labels_of(made.rows), strict=True)) == NEW
    assert all(0.5 < one.meta["certainty"] <= 1.0 for one in made.rows)
    assert made.report["classes"] == {"money": 2, "parcel": 2}
    assert made.report["held_out"]["rows"] == 10
    assert made.report["held_out"]["accuracy"] >= 0.8
    assert sum(part["rows"] for part in made.report["held_out"]["by_certainty"]) == 10


def test_texts_below_the_certainty_that_is_asked_for_are_left_out_and_counted(small: Params) -> None:
    sure = spread(LABELLED, [row(text) for text in NEW], small.model, small.spread).rows
    lowest, next_one, *_ = sorted(one.meta["certainty"] for one in sure)
    between = (lowest + next_one) / 2
    fewer = spread(LABELLED, [row(text) for text in NEW], small.model, small.spread.model_copy(update={"min_certainty": between}))
    assert len(fewer.rows) == 3
    assert fewer.report["below_min_certainty"] == 1
    assert len(fewer.report["least_certain"]) == 4


def test_the_words_of_a_label_can_stand_for_a_labelled_text(small: Params) -> None:
    """Two texts of strange labels pull nothing to them; by their names they do."""
    odd = [row("lorem ipsum dolor", "late-parcel"), row("sit amet consectetur", "money_back")]
    with_names = small.spread.model_copy(update={"label_names": "texts", "neighbours": 3})
    made = spread(odd, [row(text) for text in NEW], small.model, with_names)
    assert labels_of(made.rows) == [{"parcel": "late-parcel", "money": "money_back"}[label] for label in NEW.values()]


def test_a_class_of_one_row_is_spread_but_tells_no_accuracy(small: Params) -> None:
    made = spread([LABELLED[0], *LABELLED[5:]], [row(text) for text in NEW], small.model, small.spread)
    assert made.report["held_out"] == {"rows": 0}
    assert len(made.rows) == 4


def test_labels_of_the_file_are_not_looked_at(tmp_path: Path, params: Params) -> None:
    (tmp_path / "texts.csv").write_text("text,label\nis it here?,yes\nIs it HERE?,no\n")
    found = read_unlabelled(tmp_path / "texts.csv", params.data)
    assert [(one.text, one.label, one.source) for one in found.texts] == [("is it here?", None, "texts")]


def test_rows_without_a_text_are_told_and_too_many_of_them_refused(tmp_path: Path, params: Params) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\nno json\n{"other": 1}\n{"text": 5}\n')
    with pytest.raises(InputError, match=r"texts\.jsonl, line 2: 4 of 5 rows hold no usable text; the first: is empty"):
        read_unlabelled(path, params.data)
    found = read_unlabelled(path, params.data.model_copy(update={"max_quarantined_share": 0.9}))
    assert [one.text for one in found.texts] == ["one"]
    assert [int(bad.split(":")[0]) for bad in found.bad] == [2, 3, 4, 5]


def test_a_file_without_a_text_column_is_refused(tmp_path: Path, params: Params) -> None:
    (tmp_path / "texts.csv").write_text("words\nis it here?\n")
    with pytest.raises(InputError, match=r"data\.text_column"):
        read_unlabelled(tmp_path / "texts.csv", params.data)


def test_no_text_of_the_split_is_taken_again() -> None:
    sides = [[row("one", "a")], [row("two", "a")], [row("three", "a")]]
    left = without_split([row(text) for text in ("One!", "two", "THREE", "four")], sides)
    assert [one.text for one in left] == ["four"]


def test_the_stage_writes_what_training_learns_from(project: Project) -> None:
    project.set(spread={"neighbours": 3})
    for side, rows in {
        "train": LABELLED,
        "val": [row("my parcel?", "parcel")],
        "test": [row("the parcel never arrived", "parcel")],
    }.items():
        write_examples(project / f"split/{side}.parquet", rows)
    (project / "texts.csv").write_text("text\n" + "".join(f"{text}\n" for text in NEW))
    said = project.must("python", "-m", "pipeline.spread", "--unlabelled", "texts.csv", "--split", "split", "--out", "spread")
    assert "3 of 3 unlabelled texts have a label now" in said
    report = json.loads((project / "spread/report.json").read_text())
    assert (report["texts"], report["in_split"], report["spread"]) == (4, 1, 3)
    assert [one.text for one in read_examples(project / "spread/rows.parquet")] == [text for text in NEW if "never" not in text]


def test_training_learns_from_spread_labels_too(project: Project) -> None:
    project.set(model={"lora_rank": 2}, train={"epochs": 1, "batch_size": 4, "precision": "fp32", "log_every_steps": 1})
    sides = {"train": LABELLED[::2], "val": LABELLED[1::2], "test": LABELLED[:2]}
    for side, rows in sides.items():
        write_examples(project / f"split/{side}.parquet", rows)
    write_json(project / "split/report.json", {"digests": dict.fromkeys(sides, "0" * 64)})
    stage = ("python", "-m", "pipeline.train", "--split", "split", "--spread", "spread", "--model", "model", "--curves", "curves")
    write_examples(project / "spread/rows.parquet", [row(text, label) for text, label in NEW.items()])
    write_json(project / "spread/report.json", {"spread": 4, "held_out": {"rows": 0}})
    project.must(*stage)
    assert len((project / "curves/steps.csv").read_text().splitlines()) - 1 == 3  # 5 rows and 4, in batches of 4
