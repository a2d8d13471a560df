"""Bad input at the real command line gives one clear message with file and line or key, exit code 2 and no files."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import EXIT_BAD_INPUT
from tests.conftest import ROOT, Project

BAD = "data/bad.jsonl"


def refusal(project: Project) -> str:
    """Return the stderr of `evergreen check`, which must refuse."""
    before = files(project.folder)
    done = project.run("python", "-m", "evergreen.cli", "check")
    assert done.returncode == EXIT_BAD_INPUT, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("error:") == 1
    assert done.stderr.count("what to do:") == 1
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert not (project / "artifacts").exists()
    assert files(project.folder) == before
    return done.stderr


def files(folder: Path) -> set[Path]:
    """Return all files except those of git, caches of Python and the home of state."""
    return {
        p
        for p in folder.rglob("*")
        if p.is_file() and not {".git", ".venv", "__pycache__", "live"} & set(p.relative_to(folder).parts)
    }


def source(project: Project, content: str | bytes, name: str = BAD) -> Project:
    """Make this content the project's source."""
    (project / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    project.set(data={"source": name})
    return project


def rows(**sizes: int) -> str:
    """Return jsonl with this many rows of each label."""
    return "".join(
        json.dumps({"text": f"{label} text {n}", "label": label}) + "\n" for label, size in sizes.items() for n in range(size)
    )


def test_good_input_is_reported_with_exit_code_0(project: Project) -> None:
    done = project.run("python", "-m", "evergreen.cli", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "params.yaml: every key is known" in done.stdout
    assert not (project / "artifacts").exists()


def test_the_console_script_gives_the_same_message(project: Project) -> None:
    project.set(data={"source": "data/none.jsonl"})
    done = project.run("evergreen", "check")
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr == refusal(project)


def test_a_file_is_checked_in_place_of_the_source_and_the_command_to_run_it_is_shown(project: Project) -> None:
    (project / "my file.csv").write_text("text,label\n" + "".join(f"{a} {n},{a}\n" for a in ("x", "y") for n in range(90)))
    done = project.run("python", "-m", "evergreen.cli", "check", "my file.csv", "-S", "train.epochs=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "my file.csv: 180 rows, 2 classes of 90 to 90 rows" in done.stdout
    assert "! my file.csv: `dvc exp run` will commit this file to git" in done.stdout
    assert """next: .venv/bin/evergreen try -S 'data.source="my file.csv"' -S train.epochs=3""" in done.stdout
    assert not (project / "artifacts").exists()


def test_every_error_of_a_file_and_of_the_overrides_is_shown(project: Project) -> None:
    source(project, rows(track=50, refund=50, Track=5, tiny=1) + "not json\n" * 20)
    done = project.run("python", "-m", "evergreen.cli", "check", BAD)
    assert done.returncode == EXIT_BAD_INPUT
    assert [line.partition(": ")[2].split(":")[0] for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        f"{BAD}, line 101", f"{BAD}, line 107", "the split"
    ]  # fmt: skip
    assert "20 × not valid JSON" in done.stdout
    assert "and 17 more" in done.stdout
    done = project.run("python", "-m", "evergreen.cli", "check", "-S", "train.epochs=0", "--set-param", "model.lora_rnak=1")
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr.count("error: -S ") == 2


def test_a_check_imports_nothing_that_takes_seconds(project: Project) -> None:
    script = (
        "import sys; sys.argv = ['evergreen', 'check', 'data/support_desk.jsonl', '-S', 'train.epochs=3']\n"
        "from evergreen import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(project.must("python", "-c", script).splitlines()[-1].split())
    assert "pyarrow" in loaded
    assert loaded & {"torch", "transformers", "mlflow", "sklearn", "scipy", "pandas", "matplotlib", "datasets"} == set()


def test_a_missing_file(project: Project) -> None:
    project.set(data={"source": "data/none.jsonl"})
    assert "data/none.jsonl: there is no such file" in refusal(project)


def test_an_unknown_key(project: Project) -> None:
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(text.replace("\ntrain:\n", "\ntrain:\n  epoch: 3\n"), encoding="utf-8")
    line = text.splitlines().index("train:") + 2
    output = refusal(project)
    assert f"params.yaml, line {line}: there is no key `train.epoch`" in output
    assert "did you mean `epochs`?" in output


@pytest.mark.parametrize(
    ("section", "changes", "output"),
    [
        ("model", {"lora_rank": 0}, "the nearest that works: 1"),
        ("model", {"lora_targets": "q_proj"}, "did you mean `query`?"),
        ("train", {"optimizer": "lyon"}, "did you mean `lion`?"),
        ("train", {"trained_layers": 12}, "the nearest that works: 6"),
        ("train", {"bottom_lr": 0.1}, "the nearest that works: 0.001"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_an_impossible_setting_is_refused_before_torch_could_be_imported_with_the_nearest_that_works(
    section: str, changes: dict[str, Any], output: str, project: Project, torch_import_s: float
) -> None:
    """Half a second of CPU time on a quiet machine; torch takes several times as long on any machine."""
    project.set(**{section: changes})
    assert cpu_seconds(project, "-m", "evergreen.cli", "check") < torch_import_s
    assert output in refusal(project)


@pytest.fixture(scope="module")
def torch_import_s() -> float:
    """Seconds of CPU time that a process takes to import torch."""
    return cpu_seconds(Project(ROOT), "-c", "import torch")


def cpu_seconds(project: Project, *arguments: str) -> float:
    """Return the CPU time of a Python process in a project."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    project.run("python", *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_params_that_are_not_yaml(project: Project) -> None:
    (project / "params.yaml").write_text("data:\n\tsource: a.csv\n", encoding="utf-8")
    output = refusal(project)
    assert "params.yaml" in output
    assert "line 2" in output


def test_an_empty_file(project: Project) -> None:
    assert f"{BAD}: the file is empty" in refusal(source(project, ""))


def test_a_header_without_rows(project: Project) -> None:
    assert "data/bad.csv: the file has no rows" in refusal(source(project, "text,label\n", "data/bad.csv"))


def test_one_class_only(project: Project) -> None:
    assert f"{BAD}: all rows have one label: track" in refusal(source(project, rows(track=50)))


def test_a_label_with_two_spellings(project: Project) -> None:
    output = refusal(source(project, rows(track=50, refund=50, Track=50)))
    assert f"{BAD}, line 101: the label `Track` is also spelt `track` ({BAD}, line 1)" in output


def test_two_possible_label_columns(project: Project) -> None:
    output = refusal(source(project, "text,label,category\nhi,a,b\n", "data/bad.csv"))
    assert "data/bad.csv: several columns match: label, category" in output
    assert "data.label_column in params.yaml" in output


def test_invalid_utf8(project: Project) -> None:
    rows = "".join(f"{label} text {n},{label}\n" for label in "ab" for n in range(50))
    output = refusal(source(project, f"text,label\n{rows}".encode() + b"caf\xe9,b\n", "data/bad.csv"))
    assert "data/bad.csv, line 102: byte 4 (0xe9) is not UTF-8" in output


def test_a_row_of_ten_megabytes(project: Project) -> None:
    output = refusal(source(project, rows(track=3) + json.dumps({"text": "x" * 10_000_000, "label": "track"})))
    assert f"{BAD}, line 4: the row is longer than" in output
    assert "data.max_row_bytes" in output


def test_a_class_too_small(project: Project) -> None:
    output = refusal(source(project, rows(track=80, refund=80, tiny=1)))
    assert ": tiny" in output
    assert "split.small_classes" in output


def test_too_many_bad_rows(project: Project) -> None:
    output = refusal(source(project, rows(track=80, refund=80) + "not json\n" * 20))
    assert f"{BAD}, line 161: 20 of 180 rows are not usable" in output


def test_an_unclosed_quote(project: Project) -> None:
    table = "label,text\n" + "".join(f"{label},text {n} of {label}\n" for label in ("a", "b") for n in range(60))
    output = refusal(source(project, table + 'a,"never closed\n' + "b,one more\n" * 40, "data/bad.csv"))
    assert "data/bad.csv, line 122" in output


def test_the_stage_alone_gives_the_same_message(project: Project) -> None:
    source(project, rows(track=50))
    files = ("--feedback", "data/feedback", "--out", "artifacts/data")
    done = project.run("python", "-m", "pipeline.stages.ingest", *files)
    assert (done.returncode, done.stderr) == (EXIT_BAD_INPUT, refusal(project))
