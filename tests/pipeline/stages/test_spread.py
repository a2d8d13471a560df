"""The stage `spread`: which texts it takes, what it tells of them, and that training learns from them."""

import json
from pathlib import Path

import mlflow
import pytest

from pipeline import tracking
from pipeline.data.records import Example, labels_of, read_examples, text_id, write_examples, write_json
from pipeline.data.split_sides import side_of
from pipeline.errors import InputError
from pipeline.params import Params, Split
from pipeline.stages.spread import free_to_learn, read_unlabelled, spread, told
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
TORN = "refund me for the parcel"
WHOLE = Split(seed=1, rows_a_class="all", val_share=0.1, test_share=0.3, small_classes="refuse")


def row(text: str, label: str | None = None, group: str | None = None) -> Example:
    return Example(id=text_id(text), text=text, label=label, group=group)


LABELLED = [*(row(text, "parcel") for text in PARCEL), *(row(text, "money") for text in MONEY)]
UNKNOWN = [row(text) for text in NEW]


@pytest.fixture(scope="module")
def small(params: Params) -> Params:
    return params.model_copy(update={"spread": params.spread.model_copy(update={"neighbours": 8})})


def test_texts_get_the_label_of_those_near_by_and_what_lies_between_is_less_certain(small: Params) -> None:
    made = spread(LABELLED, [*UNKNOWN, row(TORN)], small.model, small.spread, 10.0)
    label = {one.text: one.label for one in made.rows}
    certainty = {one.text: one.meta["certainty"] for one in made.rows}
    assert {text: label[text] for text in NEW} == NEW
    assert certainty[TORN] < certainty["please refund me"]
    assert made.report["least_certain_kept"][0]["certainty"] == min(certainty.values())
    assert sum(made.report["classes"].values()) == made.report["spread"] == 5


def test_hidden_labels_tell_how_many_are_right(small: Params) -> None:
    hidden = spread(LABELLED, UNKNOWN, small.model, small.spread, 10.0).report["held_out"]
    assert (hidden["rows"], sum(part["rows"] for part in hidden["by_certainty"])) == (10, 10)
    mixed = [one.model_copy(update={"label": "parcel" if n % 2 else "money"}) for n, one in enumerate(LABELLED)]
    assert hidden["accuracy"] >= 0.8
    assert hidden["control"] > 0.5
    assert spread(mixed, UNKNOWN, small.model, small.spread, 10.0).report["held_out"]["accuracy"] <= 0.6


@pytest.mark.parametrize(("p", "warned"), [(0.001, False), (0.05, True), (0.9, True)])
def test_it_is_said_where_spreading_is_not_shown_to_be_better_than_the_control(p: float, warned: bool) -> None:
    held_out = {"rows": 10, "accuracy": 0.8, "control": 0.7, "p": p}
    said = told({"file": "texts.csv", "texts": 4, "held_back": 1}, {"spread": 3, "held_out": held_out})
    assert ("warning: not shown to be better" in said) == warned


def test_texts_below_the_certainty_that_is_asked_for_are_left_out_and_counted(small: Params) -> None:
    sure = sorted(one.meta["certainty"] for one in spread(LABELLED, UNKNOWN, small.model, small.spread, 10.0).rows)
    asked = small.spread.model_copy(update={"min_certainty": (sure[0] + sure[1]) / 2})
    fewer = spread(LABELLED, UNKNOWN, small.model, asked, 10.0)
    assert [one.meta["certainty"] >= asked.min_certainty for one in fewer.rows] == [True] * 3
    assert fewer.report["below_min_certainty"] == 1


def test_the_words_of_a_label_can_stand_for_a_labelled_text(small: Params) -> None:
    """Two texts of strange labels pull nothing to them; by their names they do."""
    odd = [row("lorem ipsum dolor", "late-parcel"), row("sit amet consectetur", "money_back")]
    with_names = small.spread.model_copy(update={"label_names": "texts", "neighbours": 3})
    made = spread(odd, UNKNOWN, small.model, with_names, 10.0)
    assert labels_of(made.rows) == [{"parcel": "late-parcel", "money": "money_back"}[label] for label in NEW.values()]
    assert made.report["held_out"] == {"rows": 0}  # a class of one row has none to hide


def test_a_class_of_one_row_does_not_keep_the_others_from_being_held_out(small: Params) -> None:
    made = spread([*LABELLED, row("hello there", "greeting")], UNKNOWN, small.model, small.spread, 10.0)
    assert made.report["held_out"]["rows"] == 10


def test_labels_of_the_file_are_not_looked_at(tmp_path: Path, params: Params) -> None:
    (tmp_path / "texts.csv").write_text("text,label,group\nis it here?,yes,7\nIs it HERE?,no,\n")
    found = read_unlabelled(tmp_path / "texts.csv", params.data)
    assert [(one.text, one.label, one.group, one.source) for one in found.texts] == [("is it here?", None, "7", "texts")]


def test_rows_without_a_text_are_told_and_too_many_of_them_refused(tmp_path: Path, params: Params) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\nno json\n{"other": 1}\n{"text": 5}\n')
    with pytest.raises(InputError, match=r"texts\.jsonl, line 2: 4 of 5 rows hold no usable text; the first: text is empty"):
        read_unlabelled(path, params.data)
    found = read_unlabelled(path, params.data.model_copy(update={"max_quarantined_share": 0.9}))
    assert [one.text for one in found.texts] == ["one"]
    assert found.bad[0] == "2: text is empty"
    assert found.bad[1].startswith("3: not valid JSON")
    assert found.bad[2:] == ["4: text is missing", "5: text is not a text"]


@pytest.mark.parametrize("lines", ["words\nis it here?\n", "text,query\nis it here?,here\n"])
def test_a_file_in_which_it_is_not_clear_where_texts_stand_is_refused(tmp_path: Path, params: Params, lines: str) -> None:
    (tmp_path / "texts.csv").write_text(lines)
    with pytest.raises(InputError, match=r"one column is named `text`"):
        read_unlabelled(tmp_path / "texts.csv", params.data)


def test_the_column_may_be_named_otherwise_than_that_of_the_source(tmp_path: Path, params: Params) -> None:
    (tmp_path / "texts.csv").write_text("text\nis it here?\n")
    found = read_unlabelled(tmp_path / "texts.csv", params.data.model_copy(update={"text_column": "body"}))
    assert [one.text for one in found.texts] == ["is it here?"]


def test_no_text_of_the_split_and_no_group_held_out_is_taken() -> None:
    sides = [[row("one", "a", "g1")], [row("two", "a", "g2")], [row("three", "a", "g3")]]
    texts = [row("One!"), row("two"), row("THREE"), row("four", group="g1"), row("five", group="g2"), row("six", group="g3")]
    assert [one.text for one in free_to_learn(texts, sides, WHOLE, test_share=0.0)] == ["four"]


def test_a_text_that_will_be_a_test_row_once_it_is_labelled_is_not_learnt_from() -> None:
    texts = [row(f"text {number}") for number in range(60)]
    free = free_to_learn(texts, [[], [], []], WHOLE, test_share=0.3)
    assert free == [one for one in texts if side_of(one, 1, val_share=0.1, test_share=0.3) != "test"]
    assert 30 < len(free) < 54


def test_training_learns_from_what_the_stage_writes_and_the_run_tells_of_it(project: Project) -> None:
    settings = {"epochs": 1, "batch_size": 4, "precision": "fp32", "log_every_steps": 1}
    project.set(spread={"neighbours": 8}, model={"lora_rank": 2}, train=settings)
    sides = {"train": LABELLED, "val": [row("my parcel?", "parcel")], "test": [row("the parcel never arrived", "parcel")]}
    for side, rows in sides.items():
        write_examples(project / f"split/{side}.parquet", rows)
    write_json(project / "split/report.json", {"digests": dict.fromkeys(sides, "0" * 64), "test_share": 0.0})
    (project / "texts.csv").write_text("text\n" + "".join(f"{text}\n" for text in NEW))
    said = project.must(
        "python", "-m", "pipeline.stages.spread", "--unlabelled", "texts.csv", "--split", "split", "--out", "spread"
    )
    assert "3 of 4 unlabelled texts have a label now, 1 stand in the split or would be test rows" in said
    assert [one.text for one in read_examples(project / "spread/rows.parquet")] == [text for text in NEW if "never" not in text]

    folders = [word for name in ("split", "spread", "model", "curves") for word in (f"--{name}", name)]
    project.must("python", "-m", "pipeline.stages.train", *folders)
    assert len((project / "curves/steps.csv").read_text().splitlines()) - 1 == 4  # 10 rows and 3, in batches of 4
    client = mlflow.MlflowClient(f"sqlite:///{project.home / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id])
    report = json.loads((project / "spread/report.json").read_text())
    assert run.data.metrics["spread/spread"] == 3
    assert run.data.metrics["spread/held_out_accuracy"] == report["held_out"]["accuracy"]
    assert len(run.data.tags["data.digest.spread"]) == 64
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"train", "val", "test", "spread"}
    assert "figures/spread_certainty.png" in [one.path for one in client.list_artifacts(run.info.run_id, "figures")]
