"""A study: one question about params.yaml, and the arms that answer it. What is declared, and what was measured; runs nothing."""

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
SECTIONS = ("data", "split", "spread", "model", "train")  # all that accuracy depends on
PLAIN = re.compile(r"[\w./-]+")
NO_RESULT_DEPENDS_ON = {"train.checkpoint_s", "train.folds", "train.log_every_steps"}


class Study(Section):
    """One question; the first arm is what the others are held against."""

    question: str
    claim: str  # of the article or paper behind it
    base: Overrides  # of every arm
    seeds: Annotated[list[int], Field(min_length=1)]  # of train.seed
    arms: Annotated[dict[str, Overrides], Field(min_length=1)]
    found: str  # what really happened, written by who has read the table; "nothing yet" before


class Run(NamedTuple):
    """One training of one arm."""

    arm: str
    seed: int
    overrides: Overrides  # in all
    key: str


class Measured(NamedTuple):
    """What one run left: scores by side, what training told of itself, and which test rows were right (hex of bits)."""

    key: str
    overrides: Overrides
    commit: str
    date: str
    scores: dict[str, dict[str, float]]
    training: dict[str, float]
    right: str
    rows: dict[str, int]  # by side


def read_study(path: Path) -> Study:
    """Raises `InputError` naming file and key."""
    try:
        return Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        near = get_close_matches(path.stem, [other.stem for other in path.parent.glob("*.yaml")], n=1, cutoff=0)
        raise InputError(str(path), "there is no such study", f"did you mean `{near[0]}`?" if near else "write it") from None
    except yaml.YAMLError as error:
        raise InputError(str(path), f"this is not valid YAML: {error}", "mend it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(str(path), f"`{where}` is not usable: {first['msg']}", "see the other files of the folder") from None


def runs_of(study: Study, path: Path, params: Params) -> list[Run]:
    """Every run of a study, seed by seed; raises `InputError` where an override fits no key of params.yaml."""
    made = []
    for seed in study.seeds:
        for arm, own in study.arms.items():
            overrides = {**study.base, **own, "train.seed": seed}
            made.append(Run(arm, seed, overrides, key_of(overridden(params, overrides, f"{path}, arm `{arm}`"))))
    return made


def overridden(params: Params, overrides: Overrides, where: str) -> Params:
    """These params with other values in some places."""
    values = params.model_dump()
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if key not in values.get(section, {}):
            known = [f"{one}.{own}" for one in SECTIONS for own in values[one]]
            near = get_close_matches(name, known, n=1, cutoff=0)[0]
            raise InputError(where, f"params.yaml has no key `{name}`", f"did you mean `{near}`?")
        values[section][key] = value
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(where, f"`{name}` = {first['input']!r} is not usable: {first['msg']}", "change the value") from None


def key_of(params: Params) -> str:
    """Of all settings that a result depends on, and of the data: runs of one key are the same run."""
    settings = {name: value for one in SECTIONS for name, value in flatten(getattr(params, one), one).items()}
    kept = {name: value for name, value in settings.items() if name not in NO_RESULT_DEPENDS_ON}
    texts = [path.read_bytes() for path in (params.data.source, params.data.test, params.data.unlabelled) if path.exists()]
    return sha256(json.dumps(kept, sort_keys=True).encode() + b"\0".join(texts)).hexdigest()[:16]


def read_measured(path: Path) -> dict[str, Measured]:
    """By key; nothing where nothing was measured."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {one.key: one for one in (Measured(**json.loads(line)) for line in lines)}


def as_bits(right: list[bool]) -> str:
    """Hexadecimal, the first row in the highest bit."""
    return f"{int('1' + ''.join('1' if one else '0' for one in right), 2):x}"


def from_bits(text: str) -> list[bool]:
    """What `as_bits` wrote."""
    return [bit == "1" for bit in f"{int(text, 16):b}"[1:]]


def as_argument(name: str, value: Any) -> str:
    """For `dvc exp run -S`; text with more than plain characters in quotes, because a comma would mean a choice there."""
    return f"{name}='{value}'" if isinstance(value, str) and not PLAIN.fullmatch(value) else f"{name}={value}"
