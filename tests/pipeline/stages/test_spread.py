"""Stage `spread`: the texts it takes, the report on their labels, and their use in training."""

import json
import sys

import mlflow
import pytest

from pipeline.data.records import Example, labels_of, read_examples, text_id, write_examples, write_json
from pipeline.params import Params
from pipeline.stages import spread as spread_stage
from pipeline.stages import train as train_stage
from pipeline.stages.spread import spread, summary
from pipeline.tracking.store import EXPERIMENT
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
AMBIGUOUS = "refund me for the parcel"


def row(text: str, label: str | None = None) -> Example:
    return Example(id=text_id(text), text=text, label=label)


LABELLED = [*(row(text, "parcel") for text in PARCEL), *(row(text, "money") for text in MONEY)]
UNLABELLED = [row(text) for text in NEW]


@pytest.fixture(scope="module")
def small(params: Params) -> Params:
    return params.model_copy(update={"spread": params.spread.model_copy(update={"neighbours": 8})})


def test_texts_get_the_label_of_their_neighbours_and_ambiguous_ones_are_less_certain(small: Params) -> None:
    spreading = spread(LABELLED, [*UNLABELLED, row(AMBIGUOUS)], small.model, small.spread, 10.0)
    label = {row.text: row.label for row in spreading.rows}
    certainty = {row.text: row.meta["certainty"] for row in spreading.rows}
    assert {text: label[text] for text in NEW} == NEW
    assert certainty[AMBIGUOUS] < certainty["please refund me"]
    assert spreading.report["least_certain_kept"][0]["certainty"] == min(certainty.values())
    assert sum(spreading.report["classes"].values()) == spreading.report["spread"] == 5


def test_held_out_labels_measure_how_many_are_right(small: Params) -> None:
    held_out = spread(LABELLED, UNLABELLED, small.model, small.spread, 10.0).report["held_out"]
    assert (held_out["rows"], sum(part["rows"] for part in held_out["by_certainty"])) == (10, 10)
    mixed = [row.model_copy(update={"label": "parcel" if n % 2 else "money"}) for n, row in enumerate(LABELLED)]
    assert held_out["accuracy"] >= 0.8
    assert held_out["control"] > 0.5
    assert spread(mixed, UNLABELLED, small.model, small.spread, 10.0).report["held_out"]["accuracy"] <= 0.6


@pytest.mark.parametrize(("p", "warned"), [(0.001, False), (0.05, True), (0.9, True)])
def test_the_summary_warns_when_spreading_is_not_shown_to_be_better_than_the_control(p: float, warned: bool) -> None:
    held_out = {"rows": 10, "accuracy": 0.8, "control": 0.7, "p": p}
    line = summary({"file": "texts.csv", "texts": 4, "held_back": 1, "spread": 3, "held_out": held_out})
    assert ("warning: not shown to be better" in line) == warned


def test_texts_below_the_minimum_certainty_are_left_out_and_counted(small: Params) -> None:
    certainties = sorted(row.meta["certainty"] for row in spread(LABELLED, UNLABELLED, small.model, small.spread, 10.0).rows)
    settings = small.spread.model_copy(update={"min_certainty": (certainties[0] + certainties[1]) / 2})
    fewer = spread(LABELLED, UNLABELLED, small.model, settings, 10.0)
    assert [row.meta["certainty"] >= settings.min_certainty for row in fewer.rows] == [True] * 3
    assert fewer.report["below_min_certainty"] == 1


def test_the_words_of_a_label_can_serve_as_a_labelled_text(small: Params) -> None:
    """Labelled texts that resemble nothing attract no text, but the names of their labels do."""
    odd = [row("lorem ipsum dolor", "late-parcel"), row("sit amet consectetur", "money_back")]
    with_names = small.spread.model_copy(update={"label_names": "texts", "neighbours": 3})
    spreading = spread(odd, UNLABELLED, small.model, with_names, 10.0)
    assert labels_of(spreading.rows) == [{"parcel": "late-parcel", "money": "money_back"}[label] for label in NEW.values()]
    assert spreading.report["held_out"] == {"rows": 0}  # a class of one row has none to hide


def test_a_class_of_one_row_does_not_keep_the_others_from_being_held_out(small: Params) -> None:
    spreading = spread([*LABELLED, row("hello there", "greeting")], UNLABELLED, small.model, small.spread, 10.0)
    assert spreading.report["held_out"]["rows"] == 10


def test_training_uses_the_rows_of_the_stage_and_its_run_holds_the_report(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"epochs": 1, "batch_size": 4, "precision": "fp32", "log_every_steps": 1}
    project.set(data={"unlabelled": "texts.csv"}, spread={"neighbours": 8}, model={"lora_rank": 2}, train=settings)
    sides = {"train": LABELLED, "val": [row("my parcel?", "parcel")], "test": [row("the parcel never arrived", "parcel")]}
    for side, rows in sides.items():
        write_examples(project / f"split/{side}.parquet", rows)
    write_json(project / "split/report.json", {"digests": dict.fromkeys(sides, "0" * 64), "test_share": 0.0})
    (project / "texts.csv").write_text("text\n" + "".join(f"{text}\n" for text in NEW))
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("EVERGREEN_HOME", str(project.home))
    monkeypatch.setattr(sys, "argv", ["spread", "--split", "split", "--out", "spread"])
    spread_stage.main()
    output = capsys.readouterr().out
    assert "3 of 4 unlabelled texts have a label now, 1 held back (in the split, or test rows once labelled)" in output
    assert [row.text for row in read_examples(project / "spread/rows.parquet")] == [text for text in NEW if "never" not in text]

    folders = [word for name in ("split", "spread", "model", "curves") for word in (f"--{name}", name)]
    monkeypatch.setattr(sys, "argv", ["train", *folders])
    train_stage.main()
    assert len((project / "curves/steps.csv").read_text().splitlines()) - 1 == 4  # 10 rows and 3, in batches of 4
    client = mlflow.MlflowClient(f"sqlite:///{project.home / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    report = json.loads((project / "spread/report.json").read_text())
    assert run.data.metrics["spread/spread"] == 3
    assert run.data.metrics["spread/held_out_accuracy"] == report["held_out"]["accuracy"]
    assert len(run.data.tags["data.digest.spread"]) == 64
    names = {dataset.dataset.name for dataset in run.inputs.dataset_inputs}
    assert names == {"support_desk train", "support_desk val", "support_desk test", "texts spread"}
    assert "figures/spread_certainty.png" in [file.path for file in client.list_artifacts(run.info.run_id, "figures")]
