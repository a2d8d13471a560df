"""Unlabelled texts: their columns and bad rows, and the texts that may be trained on."""

from pathlib import Path

import pytest

from pipeline.data.records import Example, text_id
from pipeline.data.split_sides import side_of
from pipeline.data.unlabelled import read_unlabelled, trainable
from pipeline.errors import InputError
from pipeline.params import Params, Split

SPLIT = Split(seed=1, rows_a_class="all", val_share=0.1, test_share=0.3, small_classes="refuse")


def row(text: str, label: str | None = None, group: str | None = None) -> Example:
    return Example(id=text_id(text), text=text, label=label, group=group)


def test_labels_of_the_file_are_ignored(tmp_path: Path, params: Params) -> None:
    (tmp_path / "texts.csv").write_text("text,label,customer\nis it here?,yes,7\nIs it HERE?,no,\n")
    unlabelled = read_unlabelled(tmp_path / "texts.csv", params.data.model_copy(update={"group_column": "customer"}))
    assert [(row.text, row.label, row.group, row.source) for row in unlabelled.texts] == [("is it here?", None, "7", "texts")]


def test_rows_without_a_text_are_reported_and_too_many_of_them_refused(tmp_path: Path, params: Params) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\nno json\n{"other": 1}\n{"text": 0.5}\n')
    with pytest.raises(InputError, match=r"texts\.jsonl, line 2: 4 of 5 rows have no usable text; the first: text is empty"):
        read_unlabelled(path, params.data)
    unlabelled = read_unlabelled(path, params.data.model_copy(update={"max_quarantined_share": 0.9}))
    assert [row.text for row in unlabelled.texts] == ["one"]
    assert unlabelled.bad[0] == "2: text is empty"
    assert unlabelled.bad[1].startswith("3: not valid JSON")
    assert unlabelled.bad[2:] == ["4: text is missing", "5: text is not a text: the number 0.5, which is not whole"]


@pytest.mark.parametrize("lines", ["words\nis it here?\n", "text,query\nis it here?,here\n"])
def test_a_file_without_one_clear_text_column_is_refused(tmp_path: Path, params: Params, lines: str) -> None:
    (tmp_path / "texts.csv").write_text(lines)
    with pytest.raises(InputError, match=r"one column is named `text`"):
        read_unlabelled(tmp_path / "texts.csv", params.data)


def test_the_text_column_may_have_another_name_than_in_the_source(tmp_path: Path, params: Params) -> None:
    (tmp_path / "texts.csv").write_text("text\nis it here?\n")
    unlabelled = read_unlabelled(tmp_path / "texts.csv", params.data.model_copy(update={"text_column": "body"}))
    assert [row.text for row in unlabelled.texts] == ["is it here?"]


def test_no_text_of_the_split_or_of_a_held_out_group_is_trained_on() -> None:
    sides = [[row("one", "a", "g1")], [row("two", "a", "g2")], [row("three", "a", "g3")]]
    texts = [row("One!"), row("two"), row("THREE"), row("four", group="g1"), row("five", group="g2"), row("six", group="g3")]
    assert [text.text for text in trainable(texts, sides, SPLIT, test_share=0.0)] == ["four"]


def test_a_text_that_becomes_a_test_row_once_labelled_is_not_trained_on() -> None:
    texts = [row(f"text {number}") for number in range(60)]
    taken = trainable(texts, [[], [], []], SPLIT, test_share=0.3)
    assert taken == [text for text in texts if side_of(text, 1, val_share=0.1, test_share=0.3) != "test"]
    assert 30 < len(taken) < 54
