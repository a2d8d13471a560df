"""Studies: what is declared holds against params.yaml, what was measured is not measured again, and pages come out the same."""

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
from pipeline.tuning.studies import FOLDER, MEASURED, fill, forget, read
from pipeline.tuning.study import Measured, Run, Study, as_argument, as_bits, from_bits, key_of, overridden, read_study, runs_of
from pipeline.tuning.study_page import compare, lines_of, page, write_page
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


def measured(run: Run, right: list[bool]) -> Measured:
    accuracy = {"accuracy": sum(right) / len(right)}
    rows = dict.fromkeys(("train", "val", "test"), len(right))
    return Measured(
        run.key, run.overrides, "abc1234", "2026-11-24", dict.fromkeys(rows, accuracy), TRAINING, as_bits(right), rows
    )


def all_measured(study: Study, path: Path, params: Params) -> tuple[list[Run], dict[str, Measured]]:
    runs = runs_of(study, path, params)
    answers = [[True, True, False, False], [True, False, True, True]]
    return runs, {run.key: measured(run, right) for run, right in zip(runs, answers, strict=True)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_study_fits_params_and_its_arms_differ(path: Path, params: Params) -> None:
    runs = runs_of(read_study(path), path, params)
    assert len({run.key for run in runs}) == len(runs)


def test_dvc_reads_every_override_as_the_study_does(tmp_path: Path, params: Params) -> None:
    runs = [run for path in SHIPPED for run in runs_of(read_study(path), path, params)]
    here = tmp_path / "params.yaml"
    for name, value in {item for run in runs for item in run.overrides.items()}:
        shutil.copy(ROOT / "params.yaml", here)
        apply_overrides(here, [as_argument(name, value)])
        assert load_params(here) == overridden(params, {name: value}, "")


def test_every_line_of_the_shipped_book_is_readable_and_whole() -> None:
    for line in (ROOT / FOLDER / MEASURED).read_text(encoding="utf-8").splitlines():
        one = Measured(**json.loads(line))
        right = from_bits(one.right)
        assert len(right) == one.rows["test"]
        assert sum(right) / len(right) == pytest.approx(one.scores["test"]["accuracy"])


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"train.wieght_decay": 0.1}, ["with it", "train.wieght_decay", "did you mean `train.weight_decay`"]),
        ({"weight_decay": 0.1}, ["did you mean `train.weight_decay`"]),
        ({"train.weight_decay": -1.0}, ["`train.weight_decay` = -1.0"]),
    ],
)
def test_an_arm_that_params_cannot_take_is_refused_with_the_nearest_name(
    study: Path, params: Params, arm: dict[str, float], words: list[str]
) -> None:
    study.write_text(yaml.safe_dump({**DECLARED, "arms": {"with it": arm}}))
    with pytest.raises(InputError) as refused:
        runs_of(read_study(study), study, params)
    assert [word for word in words if word not in str(refused.value)] == []


def test_a_study_that_is_not_there_or_not_whole_is_refused(study: Path) -> None:
    with pytest.raises(InputError, match="did you mean `help`"):
        read_study(study.with_name("hepl.yaml"))
    study.write_text(yaml.safe_dump({**DECLARED, "arms": {}}))
    with pytest.raises(InputError, match="`arms` is not usable"):
        read_study(study)
    study.write_text("arms: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_study(study)


def test_runs_of_one_key_are_those_with_the_same_settings_and_data(params: Params, tmp_path: Path) -> None:
    def key(**overrides: object) -> str:
        return key_of(overridden(params, {name.replace("__", "."): value for name, value in overrides.items()}, "here"))  # type: ignore[misc]

    assert key() == key(train__seed=params.train.seed) == key(train__log_every_steps=99)
    assert key() != key(train__seed=8)
    source = tmp_path / "texts.csv"
    keys = []
    for text in ("one", "two"):
        source.write_text(text)
        keys.append(key(data__source=str(source)))
    assert keys[0] != keys[1]


def test_a_study_that_was_interrupted_goes_on_where_it_was(study: Path, params: Params, tmp_path: Path) -> None:
    runs, book, asked = runs_of(read_study(study), study, params), tmp_path / "measured.jsonl", []

    def once(_study: str, run: Run) -> Measured:
        asked.append(run.arm)
        if asked == ["without", "with it"]:
            raise KeyboardInterrupt
        return measured(run, [True, False])

    with pytest.raises(KeyboardInterrupt):
        fill("help", runs, book, once)
    fill("help", runs, book, once)
    fill("help", runs, book, once)
    assert asked == ["without", "with it", "with it"]
    assert len(book.read_text().splitlines()) == 2


def test_an_experiment_that_was_not_written_down_makes_room_for_the_next(tmp_path: Path) -> None:
    git("init", "--quiet", str(tmp_path))
    own = ("-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org")
    git(*own, "commit", "--quiet", "--allow-empty", "--message", "empty")
    for name in ("other-1", "help-1"):
        git(*own, "update-ref", f"refs/exps/ab/cd/{name}", "HEAD")
    forget("help-1", tmp_path)
    assert git(*own, "for-each-ref", "--format=%(refname)", "refs/exps") == "refs/exps/ab/cd/other-1"


def test_what_the_stages_wrote_is_read_whole(tmp_path: Path) -> None:
    rows = {"train": 10, "val": 2, "test": 3}
    files = {"evaluation/metrics.json": {"test": {"accuracy": 2 / 3}}, "training/metrics.json": TRAINING}
    for name, value in {**files, "evaluation/report.json": {"rows": rows, "more": 1}}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    with (tmp_path / "evaluation/confusion.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("actual", "predicted"), ("a", "b"), ("a", "a"), ("b", "b")])
    one = read(Run("with it", 7, {}, "key"), tmp_path, "abc1234")
    assert (one.scores, one.training, one.rows) == (files["evaluation/metrics.json"], TRAINING, rows)
    assert from_bits(one.right) == [False, True, True]


@pytest.mark.parametrize("right", [[False, False, True], [True], [False] * 9, [True, False] * 327])
def test_bits_come_back_as_they_were(right: list[bool]) -> None:
    assert from_bits(as_bits(right)) == right


def test_rows_are_compared_one_by_one() -> None:
    assert compare([True, True, False, True], [False, True, True, False]) == (2, 1)
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0


def test_a_page_holds_claim_table_and_finding_and_is_the_same_twice(study: Path, params: Params, tmp_path: Path) -> None:
    declared = read_study(study)
    runs, book = all_measured(declared, study, params)
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_page("help", declared, runs, book, folder)
        written.append([(folder / name).read_bytes() for name in ("help.md", "help.png")])
    assert written[0] == written[1]
    text = written[0][0].decode()
    assert "| with it | 75.00 | 75.00 | 75.00 | 2 / 1 (1) | 30 (1.00x) | 1,048,576 | 8.0 | 0 |" in text
    assert "Validation chooses (here: *with it*)" in text
    assert "It does." in text


def test_an_arm_that_lacks_a_seed_is_told_and_not_shown(study: Path, params: Params) -> None:
    arms = {**DECLARED["arms"], "with more": {"train.weight_decay": 0.9}}
    study.write_text(yaml.safe_dump({**DECLARED, "arms": arms, "seeds": [7, 8]}, sort_keys=False))
    declared = read_study(study)
    runs = runs_of(declared, study, params)
    book = {run.key: measured(run, [True, run.seed == 7]) for run in runs if (run.arm, run.seed) != ("with more", 8)}
    assert [one.arm for one in lines_of(runs, book)] == ["without", "with it"]
    text = page("help", declared, runs, book)
    assert "1 of 3 arms are not measured yet" in text
    assert "| without | 75.00 ± 35.36 |" in text


def test_one_arm_alone_is_no_answer(study: Path, params: Params, tmp_path: Path) -> None:
    declared = read_study(study)
    runs = runs_of(declared, study, params)
    write_page("help", declared, runs, {runs[0].key: measured(runs[0], [True])}, tmp_path)
    assert "1 of 2 arms are not measured yet" in (tmp_path / "help.md").read_text()
    assert "| without |" not in (tmp_path / "help.md").read_text()
    assert not (tmp_path / "help.png").exists()
