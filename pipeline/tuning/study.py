"""A study: one question about params.yaml and the arms that answer it. Reads declarations and measurements; runs nothing."""

import json
import re
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import Field, ValidationError

from pipeline.errors import InputError
from pipeline.params import Params, Section, flatten

Value = int | float | str
Overrides = dict[str, Value]  # section.key → value, as `dvc exp run -S` takes them
SECTIONS = ("data", "split", "spread", "model", "train")  # accuracy depends on these
PLAIN = re.compile(r"[\w./-]+")
WITHOUT_EFFECT = {"train.checkpoint_s", "train.folds", "train.log_every_steps"}


class Study(Section):
    """One question; the other arms are compared with the first."""

    question: str
    claim: str  # of an article or paper
    base: Overrides  # of every arm
    seeds: Annotated[list[int], Field(min_length=1)]  # of train.seed
    arms: Annotated[dict[str, Overrides], Field(min_length=1)]
    found: str  # the conclusion, written by a person after reading the table; "nothing yet" until then


class ArmRun(NamedTuple):
    """One training of one arm."""

    arm: str
    seed: int
    overrides: Overrides  # of base, arm and seed together
    key: str


class ArmMeasurement(NamedTuple):
    """Results of one run: scores by side, the training's metrics, and the test rows that were right (hex of bits)."""

    key: str
    overrides: Overrides
    commit: str
    date: str
    scores: dict[str, dict[str, float]]
    training: dict[str, float]
    right: str
    rows: dict[str, int]  # by side


def read_study(path: Path) -> Study:
    """Read a study; raise `InputError` with file and key."""
    try:
        return Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        near = get_close_matches(path.stem, [other.stem for other in path.parent.glob("*.yaml")], n=1, cutoff=0)
        raise InputError(str(path), "there is no such study", f"did you mean `{near[0]}`?" if near else "write it") from None
    except yaml.YAMLError as error:
        raise InputError(str(path), f"this is not valid YAML: {error}", "correct it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(str(path), f"`{where}` is not usable: {first['msg']}", "see the other files of the folder") from None


def expand_runs(study: Study, path: Path, params: Params) -> list[ArmRun]:
    """Return every run of a study, seed by seed; raise `InputError` when an override fits no key of params.yaml."""
    runs = []
    for seed in study.seeds:
        for arm, arm_overrides in study.arms.items():
            overrides = {**study.base, **arm_overrides, "train.seed": seed}
            runs.append(ArmRun(arm, seed, overrides, result_key(with_overrides(params, overrides, f"{path}, arm `{arm}`"))))
    return runs


def with_overrides(params: Params, overrides: Overrides, where: str) -> Params:
    """Return params with these overrides; raise `InputError` at `where` for an unknown key or an unusable value."""
    values = params.model_dump()
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if key not in values.get(section, {}):
            valid = [f"{section}.{key}" for section in SECTIONS for key in values[section]]
            near = get_close_matches(name, valid, n=1, cutoff=0)[0]
            raise InputError(where, f"params.yaml has no key `{name}`", f"did you mean `{near}`?")
        values[section][key] = value
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(where, f"`{name}` = {first['input']!r} is not usable: {first['msg']}", "change the value") from None


def result_key(params: Params) -> str:
    """Return a digest of the data and of all settings that a result depends on: runs with equal keys have equal results."""
    settings = {name: value for section in SECTIONS for name, value in flatten(getattr(params, section), section).items()}
    relevant = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
    files = [path.read_bytes() for path in (params.data.source, params.data.test, params.data.unlabelled) if path.exists()]
    return sha256(json.dumps(relevant, sort_keys=True).encode() + b"\0".join(files)).hexdigest()[:16]


def read_measurements(path: Path) -> dict[str, ArmMeasurement]:
    """Return the measurements of a file by key; none when the file does not exist."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {measurement.key: measurement for measurement in (ArmMeasurement(**json.loads(line)) for line in lines)}


def pack_bits(right: list[bool]) -> str:
    """Write flags as hexadecimal digits, the first row in the highest bit."""
    return f"{int('1' + ''.join('1' if flag else '0' for flag in right), 2):x}"


def unpack_bits(text: str) -> list[bool]:
    """Read what `pack_bits` wrote."""
    return [bit == "1" for bit in f"{int(text, 16):b}"[1:]]


def dvc_argument(name: str, value: Any) -> str:
    """Return an argument of `dvc exp run -S`; quote text with special characters, because a comma would mean a choice."""
    return f"{name}='{value}'" if isinstance(value, str) and not PLAIN.fullmatch(value) else f"{name}={value}"
