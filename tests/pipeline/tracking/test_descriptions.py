"""Names, notes and tags of runs and versions, for people."""

import pytest

from pipeline.params import Params, flatten
from pipeline.tracking.descriptions import as_tags, model_name, recipe, run_name, version_description, version_tags, with_line

RUN = {"data.source": "data/support_desk.jsonl", "model.method": "lora", "model.lora_rank": "16", "train.epochs": "8"}


def test_a_run_is_named_by_the_experiment_of_dvc_else_by_data_and_recipe(params: Params) -> None:
    assert run_name(RUN, {"DVC_EXP_NAME": "sooner"}) == "sooner"
    assert run_name(RUN, {}) == "support_desk, lora rank 16, 8 epochs"
    assert run_name(RUN | {"model.method": "full"}, {}) == "support_desk, full, 8 epochs"
    assert run_name(RUN, {"EVERGREEN_RECIPE": "recipes/banking77.yaml"}) == "support_desk, banking77"
    assert run_name({}, {}) is None
    shipped = {key: value for name in ("data", "model", "train") for key, value in flatten(getattr(params, name), name).items()}
    assert (
        recipe(shipped, {}) == f"lora rank {params.model.lora_rank}, lr {params.train.encoder_lr}, {params.train.epochs} epochs"
    )


def test_a_line_of_a_note_is_replaced_and_what_a_person_wrote_stays() -> None:
    note = with_line(with_line("", "Data", "a.csv"), "Test", "accuracy 70.0 %")
    assert note == "- **Data**: a.csv\n- **Test**: accuracy 70.0 %"
    changed = with_line(f"{note}\nmine: good enough", "Test", "accuracy\n80.0 %")
    assert changed == "- **Data**: a.csv\n- **Test**: accuracy 80.0 %\nmine: good enough"


def test_no_tag_says_none() -> None:
    assert as_tags({"parent_version": None, "decision": 7, "git_dirty": False}) == {"decision": "7", "git_dirty": "False"}


def test_a_version_shows_accuracy_control_and_data() -> None:
    tags = version_tags({"test/accuracy": 0.7936, "control/accuracy": 0.6896}, {"data.source": "data/support_desk.jsonl"})
    assert tags == {"accuracy": "79.4 %", "control": "69.0 %", "data": "data/support_desk.jsonl"}
    described = "accuracy 79.4 %, control 69.0 %, data data/support_desk.jsonl; run sooner"
    assert version_description(tags, "sooner") == described
    assert version_tags({}, {}) == {}
    assert version_description({}, None) == ""


@pytest.mark.parametrize(("run", "name"), [("my.csv: 80%", "my·csv- 80-"), (None, "model"), ("", "model")])
def test_a_logged_model_is_named_like_its_run_with_the_signs_that_mlflow_allows(run: str | None, name: str) -> None:
    assert model_name(run) == name
