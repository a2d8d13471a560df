"""What a version was made from against a commit, in a small clone: differences are named, and what is the same passes."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.home import git
from serving.release.inputs import has_same_inputs, locked_inputs, other_inputs

PARAMS = {"data": {"source": "data/shop.csv", "test": "data/no_test.csv"}, "train": {"rate": 1e-5, "epochs": 3}}
FILES = {
    "data/shop.csv": "text,label\nwhere is my parcel,track\n",
    "data/no_test.csv": "text,label\n",
    "pipeline/params/load.py": "# params\n",
    "pipeline/params/section.py": "# section\n",
    "pipeline/train.py": "# training\n",
    "data/feedback/labels.jsonl": "{}\n",
    "README.md": "read me\n",
}
STAGES = {
    "ingest": (["data/feedback", "data/no_test.csv", "pipeline/params"], ["artifacts/data/rows.parquet"]),
    "train": (["artifacts/data/rows.parquet", "pipeline/train.py"], ["artifacts/model"]),
}


def set_params(folder: Path, params: Mapping[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def commit(folder: Path, message: str) -> str:
    git("add", "--all", "--", ".", ":(exclude)dvc.lock", folder=folder)
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", message, folder=folder)
    return git("rev-parse", "HEAD", folder=folder)


def lock(folder: Path, source: str) -> Path:
    """Write dvc.lock as DVC does after a run on the files as they are now."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    params = {"ingest": {"data": values["data"]}, "train": {f"train.{key}": value for key, value in values["train"].items()}}
    stages = {}
    for name, (deps, outs) in STAGES.items():
        paths = [*deps, source] if name == "ingest" else deps
        stages[name] = {
            "deps": [{"path": path, "md5": md5(folder / path)} for path in paths],
            "params": {"params.yaml": params[name]},
            "outs": [{"path": path} for path in outs],
        }
    path = folder / "dvc.lock"
    path.write_text(yaml.safe_dump({"stages": stages}))
    return path


def md5(path: Path) -> str:
    """Return DVC's hash of a file or folder."""
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        listed = json.dumps([{"md5": md5(path / name), "relpath": name} for name in names]).encode()
        return f"{hashlib.md5(listed, usedforsecurity=False).hexdigest()}.dir"
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else ""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, check=True)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    set_params(folder, PARAMS)
    commit(folder, "a shop")
    return folder


def made(clone: Path, *, source: str = "data/shop.csv") -> dict[str, Any]:
    """Return the lineage of a version that is made from the clone as it is now."""
    dirty = bool(git("status", "--porcelain", "--untracked-files=no", folder=clone))
    inputs = locked_inputs(lock(clone, source))._asdict()
    return {"version": 1, "git_commit": git("rev-parse", "HEAD", folder=clone), "git_dirty": dirty, "inputs": inputs}


def head(clone: Path) -> str:
    return git("rev-parse", "HEAD", folder=clone)


def test_the_inputs_are_data_code_and_params_but_no_outputs_and_no_labels(clone: Path) -> None:
    inputs = locked_inputs(lock(clone, "data/shop.csv"))
    assert sorted(inputs.files) == ["data/no_test.csv", "data/shop.csv", "pipeline/params", "pipeline/train.py"]
    assert inputs.params == {
        "data.source": "data/shop.csv", "data.test": "data/no_test.csv", "train.epochs": 3, "train.rate": 1e-5
    }  # fmt: skip


def test_a_retrain_from_the_commit_that_serves_starts_from_the_same(clone: Path) -> None:
    assert other_inputs(made(clone), head(clone), clone) == ""


def test_uncommitted_changes_of_other_files_do_not_matter(clone: Path) -> None:
    (clone / "README.md").write_text("other words\n")
    lineage = made(clone)
    assert lineage["git_dirty"]
    assert other_inputs(lineage, head(clone), clone) == ""


def test_another_data_source_is_named_also_when_it_was_never_committed(clone: Path) -> None:
    """A person tries data of theirs: `dvc exp run -S data.source=my.csv`."""
    (clone / "my.csv").write_text("text,label\nmy gym is closed,opening\n")
    set_params(clone, PARAMS | {"data": PARAMS["data"] | {"source": "my.csv"}})
    lineage = made(clone, source="my.csv")
    assert other_inputs(lineage, head(clone), clone) == (
        f"version 1 was made with data.source=my.csv, and commit {head(clone)[:7]} has data.source=data/shop.csv"
    )


def test_a_committed_change_of_the_data_source_is_refused_too(clone: Path) -> None:
    lineage = made(clone)
    (clone / "other.csv").write_text("text,label\n")
    set_params(clone, PARAMS | {"data": PARAMS["data"] | {"source": "other.csv"}})
    assert "has data.source=other.csv" in other_inputs(lineage, commit(clone, "another trade"), clone)


def test_data_that_the_commit_does_not_hold_are_named(clone: Path) -> None:
    """The params are committed, the file is not: the retrain's tree would lack it."""
    (clone / ".gitignore").write_text("my.csv\n")
    (clone / "my.csv").write_text("text,label\n")
    set_params(clone, PARAMS | {"data": PARAMS["data"] | {"source": "my.csv"}})
    commit(clone, "params alone")
    lineage = made(clone, source="my.csv")
    assert not lineage["git_dirty"]
    assert other_inputs(lineage, head(clone), clone) == (
        f"my.csv, which version 1 was trained on, is not in commit {head(clone)[:7]}"
    )


def test_uncommitted_rows_are_named(clone: Path) -> None:
    with (clone / "data/shop.csv").open("a") as file:
        file.write("it leaks,broken\n")
    assert "made from uncommitted files" in other_inputs(made(clone), head(clone), clone)
    assert "data/shop.csv" in other_inputs(made(clone), head(clone), clone)


def test_uncommitted_params_and_code_are_named(clone: Path) -> None:
    set_params(clone, PARAMS | {"train": {"rate": 1e-5, "epochs": 9}})
    (clone / "pipeline/params/load.py").write_text("# other params\n")
    difference = other_inputs(made(clone), head(clone), clone)
    assert difference.endswith("pipeline/params, train.epochs")


def test_what_was_uncommitted_may_be_committed_later(clone: Path) -> None:
    with (clone / "data/shop.csv").open("a") as file:
        file.write("it leaks,broken\n")
    lineage = made(clone)
    assert other_inputs(lineage, commit(clone, "the rows"), clone) == ""


def test_data_that_dvc_tracks_are_compared_by_their_dvc_file(clone: Path) -> None:
    (clone / ".gitignore").write_text("my.csv\n")
    (clone / "my.csv").write_text("text,label\na,b\n")
    (clone / "my.csv.dvc").write_text(yaml.safe_dump({"outs": [{"path": "my.csv", "md5": md5(clone / "my.csv")}]}))
    set_params(clone, PARAMS | {"data": PARAMS["data"] | {"source": "my.csv"}})
    commit(clone, "dvc add")
    assert other_inputs(made(clone, source="my.csv"), head(clone), clone) == ""
    (clone / "my.csv").write_text("text,label\na,b\nc,d\n")  # without dvc add; git sees nothing
    lineage = made(clone, source="my.csv")
    assert not lineage["git_dirty"]
    assert "made from uncommitted files" in other_inputs(lineage, head(clone), clone)


def test_data_outside_of_the_clone_are_compared_as_they_are_now(clone: Path, tmp_path: Path) -> None:
    export = tmp_path / "export.csv"
    export.write_text("text,label\na,b\n")
    set_params(clone, PARAMS | {"data": PARAMS["data"] | {"source": str(export)}})
    commit(clone, "an export")
    lineage = made(clone, source=str(export))
    assert other_inputs(lineage, head(clone), clone) == ""
    export.write_text("text,label\na,b\nc,d\n")
    assert str(export) in other_inputs(lineage, head(clone), clone)


def test_later_commits_are_something_new_to_learn_and_not_other_inputs(clone: Path) -> None:
    lineage = made(clone)
    with (clone / "data/shop.csv").open("a") as file:
        file.write("it leaks,broken\n")
    (clone / "pipeline/train.py").write_text("# better training\n")
    assert other_inputs(lineage, commit(clone, "more rows"), clone) == ""


def test_a_commit_that_changes_nothing_that_a_model_is_made_from_is_nothing_new(clone: Path) -> None:
    version = made(clone)
    assert has_same_inputs(version, head(clone), clone)
    (clone / "README.md").write_text("read me again\n")
    assert has_same_inputs(version, commit(clone, "a better page"), clone)
    (clone / "pipeline/train.py").write_text("# better training\n")
    assert not has_same_inputs(version, commit(clone, "better training"), clone)
    assert not has_same_inputs({"version": 1}, head(clone), clone)  # published before inputs were recorded


def test_a_retrained_version_continues_the_commit_that_it_began_from(clone: Path) -> None:
    """Its commits, on a branch, hold labels and dvc.lock alone; the clone goes on without them."""
    git("checkout", "--quiet", "-b", "retrain/1", folder=clone)
    (clone / "data/feedback/labels.jsonl").write_text('{"text": "a", "label": "b"}\n')
    commit(clone, "feedback")
    lineage = made(clone)
    git("checkout", "--quiet", "main", folder=clone)
    assert other_inputs(lineage, head(clone), clone) == ""
    (clone / "pipeline/train.py").write_text("# better training\n")
    assert other_inputs(lineage, commit(clone, "code"), clone) == ""


def test_a_commit_that_lacks_what_the_version_was_made_from_is_refused(clone: Path) -> None:
    before = head(clone)
    (clone / "pipeline/train.py").write_text("# better training\n")
    commit(clone, "better")
    lineage = made(clone)
    git("checkout", "--quiet", before, folder=clone)
    assert other_inputs(lineage, before, clone).endswith(f"commit {before[:7]} lacks its change of pipeline/train.py")


def test_a_version_of_a_commit_that_the_clone_does_not_have_is_refused(clone: Path) -> None:
    (clone / "pipeline/train.py").write_text("# better training\n")
    lineage = made(clone) | {"git_commit": "1" * 40, "git_dirty": False}
    assert "not in the history" in other_inputs(lineage, head(clone), clone)


@pytest.mark.parametrize(("is_dirty", "expected"), [(True, "nobody has recorded"), (False, "")])
def test_a_version_that_was_published_before_inputs_were_recorded(clone: Path, is_dirty: bool, expected: str) -> None:
    lineage = {"version": 1, "git_commit": head(clone), "git_dirty": is_dirty}
    assert expected in (other_inputs(lineage, head(clone), clone) or "")
    assert bool(other_inputs(lineage, head(clone), clone)) is is_dirty
