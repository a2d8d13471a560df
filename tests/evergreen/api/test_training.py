"""A training in this process: the pipeline's rules, run and scores, without its files; and the way into the pipeline."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

import evergreen
from evergreen.api.settings import read_settings
from evergreen.api.to_pipeline import TrainedOn
from pipeline.data.given_labels import label_rules
from pipeline.in_memory.given_rows import GivenRows, accept
from pipeline.params import Params, load_params
from pipeline.params.overrides import load_overridden
from pipeline.stages.ingest import ingest
from pipeline.stages.split import report, split
from tests.conftest import ROOT
from tests.evergreen.api.conftest import LABELS, SMALL, TEXTS, set_params

FRAME = pd.DataFrame({"text": TEXTS, "label": LABELS})


def digests(model: evergreen.EvergreenModel) -> dict[str, str]:
    """Return the digest of each side, from the run's tags."""
    run = mlflow.MlflowClient(evergreen.tracking_uri()).get_run(str(model.run_id))
    return {key.removeprefix("data.digest."): value for key, value in run.data.tags.items() if key.startswith("data.digest.")}


def mlflow_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}


def test_a_training_is_the_pipelines_and_leaves_the_process_as_it_was(small_project: Path) -> None:
    store, mask = mlflow.get_tracking_uri(), os.umask(0o022)
    environment = mlflow_environment()
    model = evergreen.train(FRAME["text"], FRAME["label"], name="desk", progress=False, **SMALL)
    assert (mlflow.get_tracking_uri(), os.umask(mask), mlflow_environment()) == (store, 0o022, environment)
    assert mlflow.active_run() is None
    assert not (small_project / "mlflow.db").exists()

    scores = model.scores
    assert scores is not None
    assert 0 <= scores.accuracy.low <= scores.accuracy.value <= scores.accuracy.high <= 1
    assert str(scores).startswith("accuracy ")
    assert "frozen control" in str(scores)
    predicted = model.predict(TEXTS)
    assert {*predicted} <= {"money", "parcel"}
    assert model.version is None

    client = mlflow.MlflowClient(evergreen.tracking_uri())
    run = client.get_run(str(model.run_id))
    assert client.get_experiment(run.info.experiment_id).name == "evergreen"
    assert run.info.run_name == "desk, lora rank 2, lr 0.001, 2 epochs"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == scores.accuracy.value
    assert run.data.metrics["control/accuracy"] == scores.control_accuracy
    assert {"by_epoch/val_f1_macro", "train/examples_per_second", "export/same_labels"} <= run.data.metrics.keys()
    assert (run.data.params["train.epochs"], run.data.params["data.source"]) == ("2", "desk")
    assert run.data.tags["evergreen.made_by"] == "evergreen.train"
    assert [given.dataset.name for given in run.inputs.dataset_inputs] == ["desk train", "desk val", "desk test"]

    saved = evergreen.load(model.save(small_project / "saved"))
    assert (saved.scores, saved.run_id) == (scores, model.run_id)
    np.testing.assert_array_equal(saved.predict_proba(TEXTS), model.predict_proba(TEXTS))
    check_way_into_the_pipeline(model, small_project)


def check_way_into_the_pipeline(model: evergreen.EvergreenModel, project: Path) -> None:
    """Follow the printed commands as far as the split: it has the same rows on the same sides."""
    commands = model.to_pipeline("data.jsonl")
    assert commands[0] == ".venv/bin/dvc add data.jsonl"
    assert commands[-1] == "make repro"
    overrides = shlex.split(commands[1])[2:][1::2]
    assert "data.source=data.jsonl" in overrides
    params = load_overridden(project / "params.yaml", overrides)
    assert params.train.epochs == 2
    (project / "no_test.csv").write_text("text,label\n")
    (project / "feedback").mkdir()
    rows = ingest(Path("data.jsonl"), Path("no_test.csv"), Path("feedback"), params.data, label_rules(params))
    sides = split(rows.rows, rows.test, params.split)
    assert report(sides, params.data.near_duplicate_jaccard)["digests"] == digests(model)
    with pytest.raises(evergreen.InputError, match="the file exists"):
        model.to_pipeline("data.jsonl")
    with pytest.raises(evergreen.InputError, match=r"name it data\.jsonl"):
        model.to_pipeline("data.csv")


def test_test_rows_of_the_caller_are_tested_and_nothing_is_tracked_unasked(small_project: Path) -> None:
    set_params(small_project, data={"text_column": "text"})
    test = FRAME.iloc[[0, 1, 10, 11]]
    model = evergreen.train(FRAME, test=test, track=False, progress=False, **SMALL)
    assert model.scores is not None
    assert (model.scores.test_rows, model.run_id) == (4, None)
    model.to_pipeline("mine.jsonl")
    stored = {name: Path(name).read_text().splitlines() for name in ("mine.jsonl", "mine.test.jsonl")}
    assert {name: len(lines) for name, lines in stored.items()} == {"mine.jsonl": 16, "mine.test.jsonl": 4}
    assert json.loads(stored["mine.jsonl"][0]) == {"text": TEXTS[2], "label": "parcel"}


def test_an_open_run_of_the_caller_is_not_taken_over(small_project: Path, tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'home/mlflow.db'}")
    try:
        mlflow.set_experiment("theirs")
        with mlflow.start_run(), pytest.raises(evergreen.InputError, match=r"is open in this thread.*\n.*mlflow\.end_run"):
            evergreen.train(TEXTS, LABELS, **SMALL)
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.mark.parametrize(
    ("texts", "labels", "fault"),
    [
        ([], [], "the rows: there are none"),
        (TEXTS, LABELS[:-1], r"there are 20 texts and 19 labels\n.*one of the labels for each text"),
        (["", *TEXTS[1:]], LABELS, r"row 0: 1 of 20 rows are not usable; the first: text is empty"),
        (TEXTS, [*LABELS[:-1], float("nan")], "row 19: 1 of 20 rows are not usable; the first: label is missing"),
        (TEXTS, pd.Series([0.5] * 20), "label is not a text: the number 0.5"),
        (TEXTS, ["one"] * 20, "the rows: all rows have one label: one"),
        (TEXTS, [*LABELS[:-1], "rare"], r"classes with fewer than 2 test rows.*: rare.*\n.*: split__small_classes='keep'$"),
        (TEXTS, [*LABELS[:-1], "Parcel"], r"`Parcel` is also spelt `parcel` \(row 0\)[^$]* data__merge_labels='Parcel=parcel'$"),
        ([TEXTS[-1], *TEXTS[1:]], LABELS, "the same text has several labels: money, parcel; row 19 has it too"),
        (TEXTS[0], LABELS[0], "this is one text, not a list of texts"),
        (TEXTS, None, "labels are missing, and a list is no table"),
    ],
)
def test_data_that_the_pipeline_would_refuse_is_refused_before_torch_is_needed(
    small_project: Path, texts: Any, labels: Any, fault: str
) -> None:
    with pytest.raises(evergreen.InputError, match=fault) as raised:
        evergreen.train(texts, labels)
    assert "what to do: " in str(raised.value)


def test_the_advised_merge_of_labels_and_the_decoding_of_html_hold(params: Params) -> None:
    data = params.data.model_copy(update={"merge_labels": "Parcel=parcel", "html": "decode"})
    accepted = accept(GivenRows([*TEXTS, "dogs &amp; cats"], [*LABELS, "Parcel"]), None, params.model_copy(update={"data": data}))
    assert {row.label for row in accepted.rows} == {"money", "parcel"}
    assert accepted.rows[-1].text == "dogs & cats"


@pytest.mark.parametrize("groups", [None, [str(number // 2) for number in range(len(TEXTS))]])
def test_written_rows_are_read_as_they_were_written(tmp_path: Path, groups: list[str] | None) -> None:
    settings = {"data__group_column": "customer", "data__merge_labels": "money=cash", "data__html": "decode"}
    params = read_settings(ROOT / "params.yaml", settings)
    accepted = accept(GivenRows([*TEXTS[1:], "a &amp;lt; b"], LABELS, groups), None, params)
    commands = TrainedOn(accepted.rows, [], settings, params, ROOT).to_pipeline(tmp_path / "rows.jsonl")
    overridden = load_overridden(ROOT / "params.yaml", shlex.split(commands[-2])[2:][1::2])
    nothing = tmp_path / "none.csv"
    nothing.write_text("text,label\n")
    (tmp_path / "feedback").mkdir()
    read = ingest(tmp_path / "rows.jsonl", nothing, tmp_path / "feedback", overridden.data, label_rules(overridden)).rows
    assert [(row.text, row.label, row.group) for row in read] == [(row.text, row.label, row.group) for row in accepted.rows]


def test_rows_set_aside_are_a_warning(small_project: Path) -> None:
    settings = {**SMALL, "data__max_quarantined_share": 0.2}
    with pytest.warns(UserWarning, match="1 of 21 rows are set aside; row 20: text is empty"):
        evergreen.train([*TEXTS, ""], [*LABELS, "money"], track=False, progress=False, **settings)


def test_a_training_has_a_name(small_project: Path) -> None:
    with pytest.raises(evergreen.InputError, match="name: it is empty"):
        evergreen.train(TEXTS, LABELS, name=" ")


def test_params_of_the_project_are_the_defaults(small_project: Path) -> None:
    set_params(small_project, split={"small_classes": "keep"})
    assert load_params().split.small_classes == "keep"
    with pytest.raises(evergreen.InputError, match="all rows have one label"):
        evergreen.train(TEXTS, ["one"] * 20)
