"""Reads params.yaml into its records, and explains every mistake with file, line and key."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import EvergreenError, InputError, raise_all
from pipeline.params import making, monitoring, serving
from pipeline.params.section import Section


class Params(Section):
    """All of params.yaml, in its order."""

    data: making.Data
    split: making.Split
    spread: making.Spread
    model: making.Model
    train: making.Train
    causal: making.Causal
    evaluate: making.Evaluate
    abstain: making.Abstain
    reference: making.Reference
    export: making.Export
    session: making.Session
    package: making.Package
    publish: making.Publish
    serve: serving.Serve
    http: serving.Http
    gateway: serving.Gateway
    jobs: serving.Jobs
    log: serving.Log
    monitor: monitoring.Monitor
    alerts: monitoring.Alerts
    retrain: monitoring.Retrain
    release: monitoring.ReleaseSettings
    ab: monitoring.AbSettings
    labels: monitoring.Labels
    flywheel: monitoring.Flywheel
    gate: monitoring.Gate


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml; raise `InputError` for every mistake, with file, line, key and the nearest valid name."""
    return validate(read_values(path), path)


def read_values(path: Path) -> dict[str, Any]:
    """Return the values of a YAML file by section; raise `InputError` when it is no such file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(str(path), "there is no such file", "run the command in the project's folder") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}", f"this is not valid YAML: {error.problem}", "correct that line") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(
            str(path), f"this is not valid YAML: {error}", "correct it, or restore it: git checkout params.yaml"
        ) from None
    if not isinstance(values, dict):
        raise InputError(str(path), "this file has no sections", "restore it: git checkout params.yaml")
    return values


def validate(values: Mapping[str, Any], path: Path, places: Mapping[str, str] | None = None) -> Params:
    """Return the records of these values; raise `InputError` for every mistake.

    A mistake stands in a line of `path`, unless `places` names another place for its key.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        mistakes = error.errors()
    explained: list[EvergreenError] = []
    for keys, mistake in _without_echoes(mistakes):
        where = (places or {}).get(".".join(keys[:2])) or f"{path}, line {_line_of(tree, keys)}"
        explained.append(_explain(where, keys, mistake))
    raise_all(explained)
    raise AssertionError("a validation failed without a mistake")


def flatten(section: BaseModel, prefix: str) -> dict[str, str]:
    """Return `{"train.epochs": "8", ...}`: names as on DVC's command line, values as MLflow stores them."""
    return {f"{prefix}.{key}": str(value) for key, value in section.model_dump().items()}


def _without_echoes(mistakes: list[Any]) -> list[tuple[list[str], Any]]:
    """Return one mistake of each key, unknown keys first, and without a key that is missing because it is misspelt.

    A value of several types has a mistake for each type, and pydantic adds the type to the keys; the place in a list stays.
    """
    first: dict[tuple[str, ...], Any] = {}
    for mistake in mistakes:
        loc = mistake["loc"]
        first.setdefault(tuple(str(part) for part in (*loc[:2], *(part for part in loc[2:] if isinstance(part, int)))), mistake)
    unknown = {keys: mistake for keys, mistake in first.items() if mistake["type"] == "extra_forbidden"}
    meant = {(*keys[:-1], _nearest(list(keys))) for keys in unknown}
    others = {
        keys: mistake
        for keys, mistake in first.items()
        if keys not in unknown and (mistake["type"] != "missing" or keys not in meant)
    }
    return [(list(keys), mistake) for keys, mistake in (unknown | others).items()]


def _explain(where: str, keys: list[str], mistake: Any) -> InputError:
    name = ".".join(keys)
    if mistake["type"] == "extra_forbidden":
        valid = ", ".join(valid_names(keys[:-1]))
        return InputError(where, f"there is no key `{name}`", f"did you mean `{_nearest(keys)}`? Valid here: {valid}")
    if mistake["type"] == "missing":
        return InputError(where, f"the key `{name}` is missing", "add it; `git diff params.yaml` shows what was removed")
    return InputError(where, f"`{name}` = {mistake['input']!r} is not usable: {mistake['msg']}", _advice(mistake))


def _nearest(keys: list[str]) -> str:
    """Return the valid name that is nearest to the last of these keys."""
    return get_close_matches(keys[-1], valid_names(keys[:-1]), n=1, cutoff=0)[0]


def _advice(error: Any) -> str:
    """Name the valid value nearest to the refused one where it is known."""
    limits = error.get("ctx", {})
    if error["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", limits["expected"])
        near = get_close_matches(str(error["input"]), valid, n=1, cutoff=0)
        return f"did you mean `{near[0]}`? Valid here: {', '.join(valid)}"
    for bound in ("ge", "le"):
        if bound in limits:
            return f"the nearest that works: {limits[bound]}"
    for bound, side in (("gt", "above"), ("lt", "below")):
        if bound in limits:
            return f"use a number {side} {limits[bound]}"
    return "change the value"


def valid_names(parents: list[str]) -> list[str]:
    """Return the keys that params.yaml has below these, the sections without any."""
    record: Any = Params
    for key in parents:
        record = record.model_fields[key].annotation
    return list(record.model_fields)


def _line_of(node: yaml.Node | None, keys: list[str]) -> int:
    """Return the line, counted from 1, of the deepest of `keys` that the file has."""
    line = 1
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        entry = next(((k, v) for k, v in pairs if k.value == key), None)
        if entry is None:
            break
        line, node = entry[0].start_mark.line + 1, entry[1]
    return line
