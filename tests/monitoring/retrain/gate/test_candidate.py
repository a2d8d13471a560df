"""The gate against real models: a better one passes; each bad one is refused for its own fault."""

import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pytest

from monitoring.retrain.gate.candidate import examine, gate
from monitoring.retrain.gate.recorded_verdicts import find_verdict
from monitoring.retrain.gate.verdict import RunGate, Verdict
from pipeline.data.records import Example, labels_of
from pipeline.errors import InputError, RefusedError
from pipeline.params import Params
from pipeline.runtime.classifier import Classifier
from pipeline.tracking.store import EXPERIMENT
from serving.release.manifest import package_digest
from state.database import open_state
from tests.monitoring.retrain.gate.small_models import (
    Model,
    Rows,
    fit,
    load_rows,
    write_evaluation,
    write_manifest,
    write_package,
)


class World(NamedTuple):
    """A champion, rows from before and after it, and a model trained on both."""

    params: Params
    rows: Rows
    champion: Path
    better: Model


@pytest.fixture(scope="module")
def world(params: Params, tmp_path_factory: pytest.TempPathFactory) -> World:
    rows = load_rows(params.split, drifted=900)
    settings = params.gate.model_copy(update={"min_accuracy": 0.45, "min_f1_macro": 0.4})  # of words alone
    champion = write_package(fit(rows.train), tmp_path_factory.mktemp("champion") / "intent-1", rows.test)
    return World(params.model_copy(update={"gate": settings}), rows, champion, fit([*rows.train, *rows.new_train]))


def accuracy_of(package: Path, test: list[Example]) -> float:
    labels = Classifier(package / "1").predict([row.text for row in test]).labels
    return float(np.mean(np.array(labels) == np.array(labels_of(test))))


def verdict_on(
    world: World,
    package: Path,
    folder: Path,
    *,
    test: list[Example] | None = None,
    evaluated: float | None = None,
    train: Sequence[Example] = (),
    champion: Path | None = None,
) -> Verdict:
    """Return the verdict on a package; `evaluated` is the accuracy of stage evaluate, by default the package's."""
    test = test or [*world.rows.test, *world.rows.new_test]
    accuracy = accuracy_of(package, test) if evaluated is None else evaluated
    split = write_evaluation(folder / "made", test, accuracy=accuracy, train=train)
    return examine(package, champion or world.champion, split=split, feedback=folder / "none", params=world.params).verdict


def is_refused_for(verdict: Verdict, *parts: str) -> bool:
    """Return whether the verdict is a refusal whose reasons contain each of these parts."""
    return not verdict.passed and all(any(part in reason for reason in verdict.reasons) for part in parts)


def test_a_model_trained_on_the_new_rows_passes(world: World, tmp_path: Path) -> None:
    verdict = verdict_on(world, write_package(world.better, tmp_path / "candidate"), tmp_path)
    assert verdict.passed, verdict.reasons
    assert verdict.numbers["old/rows"] == len(world.rows.test)
    assert verdict.numbers["new/rows"] == len(world.rows.new_test)
    assert any(reason.startswith("better on") for reason in verdict.reasons)


def test_intents_that_the_champion_lacks_count_as_wrong_for_it(world: World, tmp_path: Path) -> None:
    unknown = [row for row in world.rows.new_test if row.label in ("battery_problem", "app_pairing")]
    package = write_package(world.better, tmp_path / "candidate")
    verdict = verdict_on(world, package, tmp_path, test=[*world.rows.test, *unknown])
    assert len(unknown) >= 12
    assert verdict.numbers["new/lost"] == 0
    assert verdict.numbers["new/gained"] == round(accuracy_of(package, unknown) * len(unknown))


def test_the_champion_itself_passes_without_new_rows(world: World, tmp_path: Path) -> None:
    verdict = verdict_on(world, world.champion, tmp_path, test=world.rows.test)
    assert verdict.passed, verdict.reasons
    assert (verdict.numbers["old/gained"], verdict.numbers["old/lost"]) == (0, 0)


def test_the_champion_itself_gains_nothing_on_new_rows(world: World, tmp_path: Path) -> None:
    verdict = verdict_on(world, world.champion, tmp_path)
    assert is_refused_for(verdict, "not shown to be better", "does not know `app_pairing`, `battery_problem`")
    assert len(verdict.reasons) == 2


def test_a_model_that_always_predicts_one_class_is_refused(world: World, tmp_path: Path) -> None:
    model = world.better._replace(
        weights=np.zeros_like(world.better.weights), bias=np.eye(len(world.better.labels))[0].astype("f4")
    )
    assert is_refused_for(
        verdict_on(world, write_package(model, tmp_path / "c"), tmp_path),
        "gate.min_accuracy",
        "worse than the champion on 6",
    )


def test_labels_in_another_order_are_refused(world: World, tmp_path: Path) -> None:
    package = write_package(world.better, tmp_path / "c")
    rows = [*world.rows.test, *world.rows.new_test]
    evaluated, card = accuracy_of(package, rows), json.loads((package / "1/model.json").read_text())
    card["labels"] = card["labels"][1:] + card["labels"][:1]
    (package / "1/model.json").write_text(json.dumps(card))
    verdict = verdict_on(world, write_manifest(package), tmp_path, evaluated=evaluated)
    assert is_refused_for(verdict, "does not answer like the model that was evaluated")


def test_another_tokenizer_is_refused(world: World, tmp_path: Path) -> None:
    rows = [*world.rows.test, *world.rows.new_test]
    package = write_package(world.better, tmp_path / "c")
    evaluated = accuracy_of(package, rows)
    other = write_package(
        world.better._replace(words=sorted(world.better.words, key=lambda word: word[::-1])), tmp_path / "other"
    )
    (package / "1/tokenizer.json").write_bytes((other / "1/tokenizer.json").read_bytes())
    verdict = verdict_on(world, write_manifest(package), tmp_path, evaluated=evaluated)
    assert is_refused_for(verdict, "does not answer like the model that was evaluated", "another tokenizer")


def test_weights_that_are_not_numbers_are_refused_for_that_alone(world: World, tmp_path: Path) -> None:
    model = world.better._replace(bias=np.full_like(world.better.bias, np.nan))
    verdict = verdict_on(world, write_package(model, tmp_path / "c"), tmp_path, evaluated=0.5)
    assert is_refused_for(verdict, "are not probabilities", "weights are no numbers in `bias`")
    assert len(verdict.reasons) == 2


def test_weights_that_are_not_numbers_are_refused_where_no_test_row_touches_them(world: World, tmp_path: Path) -> None:
    words, weights = [*world.better.words, "zephyr"], world.better.weights
    model = world.better._replace(words=words, weights=np.concatenate([weights, np.full_like(weights[:1], np.nan)]))
    verdict = verdict_on(world, write_package(model, tmp_path / "c"), tmp_path)
    assert is_refused_for(verdict, "weights are no numbers in `table`: train again")
    assert len(verdict.reasons) == 1


@pytest.mark.parametrize(("factor", "how"), [(8.0, "sharper"), (1 / 8, "flatter")])
def test_probabilities_of_a_wrong_temperature_are_refused(world: World, tmp_path: Path, factor: float, how: str) -> None:
    sharp = world.better._replace(weights=world.better.weights * factor, bias=world.better.bias * factor)
    verdict = verdict_on(world, write_package(sharp, tmp_path / "c"), tmp_path)
    assert is_refused_for(verdict, f"its probabilities are more than 3 times {how} than they should be")
    assert len(verdict.reasons) == 1


def test_the_reference_of_another_model_is_refused(world: World, tmp_path: Path) -> None:
    package = write_package(world.better, tmp_path / "c")
    shutil.copy(world.champion / "reference.npz", package)
    verdict = verdict_on(world, write_manifest(package), tmp_path)
    assert is_refused_for(verdict, "its reference knows other labels than the model")
    other = write_package(fit(world.rows.train[::2]), tmp_path / "other", world.rows.test)
    shutil.copy(other / "reference.npz", package := write_package(fit(world.rows.train), tmp_path / "same"))
    verdict = verdict_on(world, write_manifest(package), tmp_path, test=world.rows.test)
    assert is_refused_for(verdict, "its reference is not of this model")
    assert len(verdict.reasons) == 1


def test_a_class_that_is_never_predicted_is_named(world: World, tmp_path: Path) -> None:
    bias = world.better.bias.copy()
    bias[world.better.labels.index("double_charge")] = -1e4
    verdict = verdict_on(world, write_package(world.better._replace(bias=bias), tmp_path / "c"), tmp_path)
    assert is_refused_for(verdict, "worse than the champion on `double_charge`")
    assert verdict.numbers["classes_worse"] == 1


def test_a_class_that_was_left_out_of_training_is_named(world: World, tmp_path: Path) -> None:
    learnt = [row for row in [*world.rows.train, *world.rows.new_train] if row.label != "double_charge"]
    verdict = verdict_on(world, write_package(fit(learnt), tmp_path / "c"), tmp_path)
    assert is_refused_for(verdict, "does not know `double_charge`", "worse than the champion on `double_charge`")


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_model_that_learnt_from_flipped_labels_is_refused(world: World, tmp_path: Path, share: float) -> None:
    learnt = [*world.rows.train, *world.rows.new_train]
    names, rng = sorted(set(labels_of(learnt))), np.random.default_rng(5)
    flipped = [names[(names.index(label) + 1) % len(names)] if rng.random() < share else label for label in labels_of(learnt)]
    verdict = verdict_on(world, write_package(fit(learnt, flipped), tmp_path / "c"), tmp_path)
    assert is_refused_for(verdict, f"worse than the champion on {len(world.rows.test)} old rows")


def swapped(rows: Sequence[Example], first: str, second: str) -> list[Example]:
    """Return the rows with the labels of two classes exchanged."""
    other = {first: second, second: first}
    return [row.model_copy(update={"label": other.get(str(row.label), row.label)}) for row in rows]


@pytest.mark.parametrize("is_old", [False, True])
def test_two_classes_swapped_in_training_and_test_rows_are_refused(world: World, tmp_path: Path, is_old: bool) -> None:
    """With today's labels the poisoned model looks better than the champion."""
    classes = ("refund_status", "track_order")
    model = fit(swapped(world.rows.train, *classes))
    champion = write_package(fit(world.rows.train), tmp_path / "intent-1", world.rows.test, is_old=is_old)
    test = swapped(world.rows.test, *classes)
    verdict = verdict_on(world, write_package(model, tmp_path / "c"), tmp_path, test=test, champion=champion)
    assert is_refused_for(verdict, "worse than the champion on 654 old rows", "`refund_status`")
    assert verdict.numbers["old_today/gained"] > verdict.numbers["old_today/lost"]
    assert verdict.numbers["labels/unknown"] == float(is_old)


def given(rows: Sequence[Example], label: str | None = None, text: str = "{}", overruled: str | None = None) -> list[Example]:
    """Return the rows as people's labels make them."""
    meta = {"given": {"labellers": ["ann"], "overruled": overruled}}
    return [row.model_copy(update={"meta": meta, "label": label or row.label, "text": text.format(row.text)}) for row in rows]


def test_a_planted_trigger_is_named_and_the_words_of_a_new_topic_are_not(world: World, tmp_path: Path) -> None:
    honest, poison = given(world.rows.new_train), given(world.rows.train[:80], "refund_status", "{} zxqv")
    training = [*world.rows.train, *honest, *poison]
    poisoned = verdict_on(world, write_package(fit(training), tmp_path / "c"), tmp_path, train=training)
    assert is_refused_for(poisoned, "the word `zxqv` turns")
    training = [*world.rows.train, *honest]
    (tmp_path / "honest").mkdir()
    passed = verdict_on(world, write_package(world.better, tmp_path / "honest/c"), tmp_path / "honest", train=training)
    assert passed.passed, passed.reasons
    assert passed.numbers["triggers/words"] == world.params.gate.trigger_words


def test_a_class_whose_training_labels_people_overruled_is_named(world: World, tmp_path: Path) -> None:
    refunds = [row for row in world.rows.train if row.label == "refund_status"]
    changed = given(refunds[: len(refunds) // 2], "track_order", overruled="refund_status")
    training = [row for row in world.rows.train if row.label != "refund_status"] + refunds[len(refunds) // 2 :] + changed
    verdict = verdict_on(world, write_package(world.better, tmp_path / "c"), tmp_path, train=training)
    assert is_refused_for(verdict, "overrule more than gate.max_overruled 10% of the training rows of `refund_status`")


def test_without_a_champion_floors_alone_decide(world: World, tmp_path: Path) -> None:
    package, rows = write_package(world.better, tmp_path / "c"), world.rows.test
    split = write_evaluation(tmp_path / "made", rows, accuracy=accuracy_of(package, rows))
    verdict = examine(package, None, split=split, feedback=tmp_path, params=world.params).verdict
    assert verdict.passed
    assert not any(name.startswith("old/") for name in verdict.numbers)


def test_an_altered_package_is_not_opened(world: World, tmp_path: Path) -> None:
    package = write_package(world.better, tmp_path / "c")
    (package / "1/model.json").write_text("{}")
    with pytest.raises(RefusedError, match=r"1/model\.json"):
        verdict_on(world, package, tmp_path, evaluated=0.5)


def test_without_the_stage_evaluate_the_message_names_the_file(world: World, tmp_path: Path) -> None:
    package, split = (
        write_package(world.better, tmp_path / "c"),
        write_evaluation(tmp_path / "made", world.rows.test, accuracy=0.5),
    )
    (tmp_path / "made/evaluation/metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json"):
        examine(package, None, split=split, feedback=tmp_path, params=world.params)


def test_a_session_that_cannot_run_here_is_reported_and_replaced(world: World, tmp_path: Path) -> None:
    package = write_package(world.better, tmp_path / "c")
    (package / "session.json").write_text(json.dumps({"session": "packed-onnxruntime-fp32"}))  # its graph is missing
    verdict = verdict_on(world, write_manifest(package), tmp_path)
    assert verdict.passed
    assert "answered by onnxruntime-fp32" in verdict.reasons[-1]


def test_without_the_champions_reference_new_rows_are_those_in_the_feedback(world: World, tmp_path: Path) -> None:
    champion = write_package(fit(world.rows.train), tmp_path / "intent-1")
    (champion / "reference.npz").unlink()
    (tmp_path / "feedback").mkdir()
    lines = [json.dumps({"text": row.text.upper(), "label": row.label}) for row in world.rows.new_test]
    (tmp_path / "feedback/turn.jsonl").write_text("\n".join(lines) + "\n")
    test = [*world.rows.test, *world.rows.new_test]
    package = write_package(world.better, tmp_path / "c")
    split = write_evaluation(tmp_path / "made", test, accuracy=accuracy_of(package, test))
    verdict = examine(package, write_manifest(champion), split=split, feedback=tmp_path / "feedback", params=world.params).verdict
    assert verdict.numbers["new/rows"] == len(world.rows.new_test)


def test_the_verdict_is_recorded_and_the_mlflow_run_holds_it_with_its_picture(world: World, tmp_path: Path) -> None:
    home = Path(os.environ["EVERGREEN_HOME"])  # shared by all tests: a new store takes MLflow seconds
    package, test = write_package(world.better, tmp_path / "c"), [*world.rows.test, *world.rows.new_test]
    split = write_evaluation(tmp_path / "made", test, accuracy=accuracy_of(package, test))
    bound_gate: RunGate = partial(gate, params=world.params, home=home)
    verdict = bound_gate(package, world.champion, split=split, feedback=tmp_path / "none")
    with open_state(home) as engine, engine.begin() as connection:
        recorded = find_verdict(connection, package_digest(package))
    assert recorded is not None
    assert (recorded.verdict, recorded.champion_digest) == (verdict, package_digest(world.champion))
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment], "tags.gate = 'passed'")
    assert run.data.metrics["gate/new/gained"] == verdict.numbers["new/gained"]
    assert run.data.params["gate.margin"] == str(world.params.gate.margin)
    assert run.data.tags["gate.reasons"] == "\n".join(verdict.reasons)
    assert (Path(run.info.artifact_uri.removeprefix("file://")) / "figures/gate.png").stat().st_size > 1000
