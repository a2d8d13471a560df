"""What a version was made from, by dvc.lock, and how a commit differs from that. Knows no stage and no retrain.

The inputs of a model are the params and the files of dvc.lock that no stage makes: data and code. Labels from people
(`data/feedback`) do not count, because they differ in every retrain.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import InputError, ToolError
from pipeline.home import git, without_git
from pipeline.params import Data

FEEDBACK, PARAMS = "data/feedback", "params.yaml"
DATA_FILES = tuple(name for name in ("source", "test", "unlabelled") if name in Data.model_fields)
SHOWN = 3
WHAT_TO_DO = (
    "commit what the champion was made from (large data: .venv/bin/dvc add), "
    "or publish a model of this commit: make repro, then .venv/bin/evergreen publish"
)


class ModelInputs(NamedTuple):
    """MD5 of files and folders, as DVC computes it, and params by dotted name."""

    files: dict[str, str]  # empty: there is no such file
    params: dict[str, Any]


def locked_inputs(dvc_lock: Path) -> ModelInputs:
    """Read the inputs of the model that the pipeline made last."""
    try:
        stages = yaml.safe_load(dvc_lock.read_text(encoding="utf-8"))["stages"].values()
    except FileNotFoundError:
        raise InputError(str(dvc_lock), "there is no such file", "run the pipeline first: .venv/bin/dvc repro") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise InputError(str(dvc_lock), "DVC did not write this file", "run the pipeline again: .venv/bin/dvc repro") from None
    made = {out["path"] for stage in stages for out in stage.get("outs", [])}
    files = {dep["path"]: str(dep.get("md5", "")) for stage in stages for dep in stage.get("deps", [])}
    params = {key: value for stage in stages for key, value in _flat(stage.get("params", {}).get(PARAMS, {})).items()}
    outer = {path: md5 for path, md5 in files.items() if path != FEEDBACK and not _is_below(path, made)}
    return ModelInputs(dict(sorted(outer.items())), dict(sorted(params.items())))


def other_inputs(lineage: Mapping[str, Any], head: str, clone: Path) -> str:
    """Say how a commit differs from what a version was made from; empty when a retrain from it would continue that version.

    Later commits may differ, as long as they contain everything that the version was made from and name the same data.
    """
    return _other_inputs(json.dumps(dict(lineage), sort_keys=True), head, clone, _stamp_of_files_outside(lineage, clone))


def has_same_inputs(lineage: Mapping[str, Any], head: str, clone: Path) -> bool:
    """Return whether a commit has the data, code and params of a version: without new labels a retrain would repeat it."""
    inputs = lineage.get("inputs")
    return bool(inputs) and not _differences_at(json.dumps(inputs), head, clone, _stamp_of_files_outside(lineage, clone))


@lru_cache(maxsize=16)
def _differences_at(inputs_json: str, head: str, clone: Path, _stamp: tuple[tuple[int, int], ...]) -> str:
    inputs = ModelInputs(**json.loads(inputs_json))
    return _differences(inputs, inputs_at(head, inputs, clone))


def _stamp_of_files_outside(lineage: Mapping[str, Any], clone: Path) -> tuple[tuple[int, int], ...]:
    """Return what changes when files outside of the clone do, which no commit holds."""
    outside = [clone / path for path in lineage.get("inputs", {}).get("files", {}) if _is_outside(path)]
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in outside if path.is_file())


@lru_cache(maxsize=16)
def _other_inputs(lineage_json: str, head: str, clone: Path, _stamp: tuple[tuple[int, int], ...]) -> str:
    lineage = json.loads(lineage_json)
    version, short = f"version {lineage.get('version', '?')}", head[:7]
    commit = str(lineage.get("git_commit", ""))
    if "inputs" not in lineage:  # published before they were recorded
        unknown = f"{version} was made from uncommitted files, which nobody has recorded"
        return unknown if lineage.get("git_dirty", True) else _uncontained(version, commit, head, clone, ["pipeline", "data"])
    inputs = ModelInputs(lineage["inputs"]["files"], lineage["inputs"]["params"])
    there = inputs_at(head, inputs, clone)
    if sources := _other_sources(inputs, there):
        return f"{version} was made with {sources[0]}, and commit {short} has {sources[1]}"
    data = [path for key in DATA_FILES if (path := str(inputs.params.get(f"data.{key}", ""))) in inputs.files]
    if missing := [path for path in data if not there.files[path]]:
        return f"{missing[0]}, which {version} was trained on, is not in commit {short}"
    different = _differences(inputs, there)
    if not different:
        return ""
    uncommitted = lineage.get("git_dirty", True) or _differs_from_its_commit(inputs, commit, data, clone)
    if uncommitted:
        return f"{version} was made from uncommitted files, which differ from commit {short}: {different}"
    return _uncontained(version, commit, head, clone, [*inputs.files, PARAMS])


def inputs_at(commit: str, like: ModelInputs, clone: Path) -> ModelInputs:
    """Return the same files and params as they are in a commit; files outside of the clone as they are now."""
    inside = [path for path in like.files if not _is_outside(path)]
    contents = _contents(commit, [*inside, *(f"{path}.dvc" for path in inside), PARAMS], clone)
    files = {path: _digest(path, contents) for path in inside}
    outside = {path: clone / path for path in like.files if _is_outside(path)}
    files |= {name: _md5(path.read_bytes()) if path.is_file() else "" for name, path in outside.items()}
    tree = _flat(yaml.safe_load(contents.get(PARAMS, b"{}")) or {})
    return ModelInputs(files, {name: tree.get(name) for name in like.params})


def _other_sources(inputs: ModelInputs, there: ModelInputs) -> tuple[str, str] | None:
    """Return the first data file that the two name differently."""
    for key in (f"data.{name}" for name in DATA_FILES):
        ours, theirs = inputs.params.get(key), there.params.get(key)
        if ours != theirs:
            return f"{key}={ours}", f"{key}={theirs}"
    return None


def _differences(inputs: ModelInputs, there: ModelInputs) -> str:
    """Name the first files and params that differ."""
    params = [name for name, value in inputs.params.items() if _plain(value) != _plain(there.params[name])]
    files = [path for path, md5 in inputs.files.items() if md5 != there.files[path]]
    names = [*files, *params]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _differs_from_its_commit(inputs: ModelInputs, commit: str, data: list[str], clone: Path) -> bool:
    """Return whether data were changed without a commit: git does not see that in files that DVC or nobody tracks."""
    try:
        committed = inputs_at(commit, ModelInputs({path: inputs.files[path] for path in data}, {}), clone)
    except ToolError:  # the commit is not in this clone
        return False
    return any(inputs.files[path] != committed.files[path] for path in data)


def _uncontained(version: str, commit: str, head: str, clone: Path, paths: list[str]) -> str:
    """Say which files of a version's commit a later commit lacks; those of a retrain's branch are its base's."""
    inside = [path for path in paths if not _is_outside(path)]
    try:
        base = git("merge-base", commit, head, folder=clone)
        lacking = git("diff", "--name-only", base, commit, "--", *inside, f":(exclude){FEEDBACK}", folder=clone).split("\n")
    except ToolError:
        return f"{version} was made from commit {commit[:7]}, which is not in the history of {head[:7]}"
    lacking = [path for path in lacking if path]
    if not lacking:
        return ""
    return f"{version} was made from commit {commit[:7]}, and commit {head[:7]} lacks its change of {lacking[0]}"


def _contents(commit: str, paths: Iterable[str], clone: Path) -> dict[str, bytes]:
    """Return the content of files, and of all files below folders, in a commit."""
    listed = git("ls-tree", "-r", "-z", commit, "--", *paths, folder=clone).split("\0")
    blobs = {line.partition("\t")[2]: line.split()[2] for line in listed if " blob " in line}
    asked = "".join(f"{blob}\n" for blob in blobs.values()).encode()
    command = ["git", "cat-file", "--batch"]
    done = subprocess.run(command, cwd=clone, env=without_git(os.environ), input=asked, capture_output=True, check=True)
    contents, at = {}, 0
    for path in blobs:
        end = done.stdout.index(b"\n", at)
        size = int(done.stdout[at:end].split(b" ")[2])
        contents[path] = done.stdout[end + 1 : end + 1 + size]
        at = end + 1 + size + 1
    return contents


def _digest(path: str, contents: Mapping[str, bytes]) -> str:
    """Return DVC's MD5 of a file or folder of a commit, by its content or by its .dvc file; empty when there is neither."""
    if path in contents:
        return _md5(contents[path])
    if f"{path}.dvc" in contents:
        return str(yaml.safe_load(contents[f"{path}.dvc"])["outs"][0]["md5"])
    below = [name for name in contents if name.startswith(f"{path}/")]
    if not below:
        return ""
    entries = [{"md5": _md5(contents[name]), "relpath": name.removeprefix(f"{path}/")} for name in below]
    entries.sort(key=lambda entry: entry["relpath"])
    return f"{_md5(json.dumps(entries, sort_keys=True).encode())}.dir"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _plain(value: Any) -> Any:
    """Return a number as a number: YAML 1.1 reads 1e-05 as a text."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def _is_below(path: str, folders: set[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _is_outside(path: str) -> bool:
    return path.startswith(("/", "../"))


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
