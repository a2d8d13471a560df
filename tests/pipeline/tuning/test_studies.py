"""Studies: declarations fit params.yaml, measurements are not repeated, and pages are reproducible."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from pipeline.errors import InputError
from pipeline.home import git
from pipeline.metrics import mcnemar
from pipeline.params import Params, load_params
from pipeline.tuning.studies import FOLDER, MEASURED, measure_missing, read_results, remove_experiment
from pipeline.tuning.study import (
    ArmMeasurement,
    ArmRun,
    Study,
    dvc_argument,
    expand_runs,
    pack_bits,
    read_study,
    result_key,
    unpack_bits,
    with_overrides,
)
from pipeline.tuning.study_page import compare, page, summarise_arms, write_page
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / FOLDER).glob("*.yaml"))
TRAINING = {"cpu_seconds": 30.0, "memory_trained_mib": 4.0, "memory_optimizer_mib": 8.0, "bad_steps": 0}
DECLARED: dict[str, Any] = {
    "question": "Does it help?",
    "claim": "It does.",
    "base": {"train.epochs": 3},
    "seeds": [7],
    "arms": {"without": {}, "with it": {"train.weight_decay": 0.5}},
    "found": "nothing yet",
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "help.yaml"
    path.write_text(yaml.safe_dump(DECLARED, sort_keys=False))
    return path


def measured(run: ArmRun, right: list[bool]) -> ArmMeasurement:
    accuracy = {"accuracy": sum(right) / len(right)}
    rows = dict.fromkeys(("train", "val", "test"), len(right))
    return ArmMeasurement(
        run.key, run.overrides, "abc1234", "2026-11-24", dict.fromkeys(rows, accuracy), TRAINING, pack_bits(right), rows
    )


def all_measured(study: Study, path: Path, params: Params) -> tuple[list[ArmRun], dict[str, ArmMeasurement]]:
    runs = expand_runs(study, path, params)
    answers = [[True, True, False, False], [True, False, True, True]]
    return runs, {run.key: measured(run, right) for run, right in zip(runs, answers, strict=True)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_study_fits_params_and_its_arms_differ(path: Path, params: Params) -> None:
    runs = expand_runs(read_study(path), path, params)
    assert len({run.key for run in runs}) == len(runs)


def test_dvc_reads_every_override_as_the_study_does(tmp_path: Path, params: Params) -> None:
    runs = [run for path in SHIPPED for run in expand_runs(read_study(path), path, params)]
    here = tmp_path / "params.yaml"
    for name, value in {item for run in runs for item in run.overrides.items()}:
        shutil.copy(ROOT / "params.yaml", here)
        apply_overrides(here, [dvc_argument(name, value)])
        assert load_params(here) == with_overrides(params, {name: value}, "")


def test_every_line_of_the_shipped_book_is_readable_and_complete() -> None:
    for line in (ROOT / FOLDER / MEASURED).read_text(encoding="utf-8").splitlines():
        measurement = ArmMeasurement(**json.loads(line))
        right = unpack_bits(measurement.right)
        assert len(right) == measurement.rows["test"]
        assert sum(right) / len(right) == pytest.approx(measurement.scores["test"]["accuracy"])


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"train.wieght_decay": 0.1}, ["with it", "train.wieght_decay", "did you mean `train.weight_decay`"]),
        ({"weight_decay": 0.1}, ["did you mean `train.weight_decay`"]),
        ({"train.weight_decay": -1.0}, ["`train.weight_decay` = -1.0"]),
    ],
)
def test_an_arm_that_fits_no_key_of_params_is_refused_with_the_nearest_name(
    study: Path, params: Params, arm: dict[str, float], words: list[str]
) -> None:
    study.write_text(yaml.safe_dump({**DECLARED, "arms": {"with it": arm}}))
    with pytest.raises(InputError) as refused:
        expand_runs(read_study(study), study, params)
    assert [word for word in words if word not in str(refused.value)] == []


def test_a_missing_or_incomplete_study_is_refused(study: Path) -> None:
    with pytest.raises(InputError, match="did you mean `help`"):
        read_study(study.with_name("hepl.yaml"))
    study.write_text(yaml.safe_dump({**DECLARED, "arms": {}}))
    with pytest.raises(InputError, match="`arms` is not usable"):
        read_study(study)
    study.write_text("arms: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_study(study)


def test_runs_with_the_same_settings_and_data_have_the_same_key(params: Params, tmp_path: Path) -> None:
    def key(**overrides: object) -> str:
        return result_key(with_overrides(params, {name.replace("__", "."): value for name, value in overrides.items()}, "here"))  # type: ignore[misc]

    assert key() == key(train__seed=params.train.seed) == key(train__log_every_steps=99)
    assert key() != key(train__seed=8)
    source = tmp_path / "texts.csv"
    keys = []
    for text in ("one", "two"):
        source.write_text(text)
        keys.append(key(data__source=str(source)))
    assert keys[0] != keys[1]


def test_an_interrupted_study_continues_where_it_stopped(study: Path, params: Params, tmp_path: Path) -> None:
    runs, book, measured_arms = expand_runs(read_study(study), study, params), tmp_path / "measured.jsonl", []

    def interrupted_once(_study: str, run: ArmRun) -> ArmMeasurement:
        measured_arms.append(run.arm)
        if measured_arms == ["without", "with it"]:
            raise KeyboardInterrupt
        return measured(run, [True, False])

    with pytest.raises(KeyboardInterrupt):
        measure_missing("help", runs, book, interrupted_once)
    measure_missing("help", runs, book, interrupted_once)
    measure_missing("help", runs, book, interrupted_once)
    assert measured_arms == ["without", "with it", "with it"]
    assert len(book.read_text().splitlines()) == 2


def test_only_the_named_experiment_is_removed(tmp_path: Path) -> None:
    git("init", "--quiet", str(tmp_path))
    options = ("-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org")
    git(*options, "commit", "--quiet", "--allow-empty", "--message", "empty")
    for name in ("other-1", "help-1"):
        git(*options, "update-ref", f"refs/exps/ab/cd/{name}", "HEAD")
    remove_experiment("help-1", tmp_path)
    assert git(*options, "for-each-ref", "--format=%(refname)", "refs/exps") == "refs/exps/ab/cd/other-1"


def test_results_are_read_from_the_files_of_the_stages(tmp_path: Path) -> None:
    rows = {"train": 10, "val": 2, "test": 3}
    files = {"evaluation/metrics.json": {"test": {"accuracy": 2 / 3}}, "training/metrics.json": TRAINING}
    for name, value in {**files, "evaluation/report.json": {"rows": rows, "more": 1}}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    with (tmp_path / "evaluation/confusion.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("actual", "predicted"), ("a", "b"), ("a", "a"), ("b", "b")])
    result = read_results(ArmRun("with it", 7, {}, "key"), tmp_path, "abc1234")
    assert (result.scores, result.training, result.rows) == (files["evaluation/metrics.json"], TRAINING, rows)
    assert unpack_bits(result.right) == [False, True, True]


@pytest.mark.parametrize("right", [[False, False, True], [True], [False] * 9, [True, False] * 327])
def test_bits_survive_packing(right: list[bool]) -> None:
    assert unpack_bits(pack_bits(right)) == right


def test_rows_are_compared_one_by_one() -> None:
    assert compare([True, True, False, True], [False, True, True, False]) == (2, 1)
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0


def test_a_page_holds_claim_table_and_result_and_is_reproducible(study: Path, params: Params, tmp_path: Path) -> None:
    declared = read_study(study)
    runs, book = all_measured(declared, study, params)
    pages = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_page("help", declared, runs, book, folder)
        pages.append([(folder / name).read_bytes() for name in ("help.md", "help.png")])
    assert pages[0] == pages[1]
    text = pages[0][0].decode()
    assert "| with it | 75.00 | 75.00 | 75.00 | 2 / 1 (1) | 30 (1.00x) | 1,048,576 | 8.0 | 0 |" in text
    assert "Validation chooses (here: *with it*)" in text
    assert "It does." in text


def test_an_arm_that_lacks_a_seed_is_counted_and_not_shown(study: Path, params: Params) -> None:
    arms = {**DECLARED["arms"], "with more": {"train.weight_decay": 0.9}}
    study.write_text(yaml.safe_dump({**DECLARED, "arms": arms, "seeds": [7, 8]}, sort_keys=False))
    declared = read_study(study)
    runs = expand_runs(declared, study, params)
    book = {run.key: measured(run, [True, run.seed == 7]) for run in runs if (run.arm, run.seed) != ("with more", 8)}
    assert [arm.arm for arm in summarise_arms(runs, book)] == ["without", "with it"]
    text = page("help", declared, runs, book)
    assert "1 of 3 arms are not measured yet" in text
    assert "| without | 75.00 ± 35.36 |" in text


def test_one_arm_alone_gets_no_table(study: Path, params: Params, tmp_path: Path) -> None:
    declared = read_study(study)
    runs = expand_runs(declared, study, params)
    write_page("help", declared, runs, {runs[0].key: measured(runs[0], [True])}, tmp_path)
    assert "1 of 2 arms are not measured yet" in (tmp_path / "help.md").read_text()
    assert "| without |" not in (tmp_path / "help.md").read_text()
    assert not (tmp_path / "help.png").exists()
