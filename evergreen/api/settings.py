"""Settings as keywords: `train__epochs=3` is the key `train.epochs` of params.yaml, for one training."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.errors import CombinedError, EvergreenError, InputError, collecting, raise_all
from pipeline.params import Params
from pipeline.params.load import read_values, valid_names, validate
from pipeline.params.overrides import rewrite_overrides

SECTIONS = ("data", "split", "model", "train", "evaluate", "abstain", "export")  # that a training in this process reads
FILES = ("data.source", "data.test", "data.unlabelled", "abstain.out_of_scope")
SEPARATOR = "__"


def read_settings(path: Path, settings: Mapping[str, Any]) -> Params:
    """Read params.yaml and apply the settings; raise `InputError` for every mistake of either."""
    values = read_values(path)
    check_names(settings)
    places = {}
    for keyword, value in settings.items():
        section, _, key = keyword.partition(SEPARATOR)
        plain = value.item() if type(value).__module__ == "numpy" else value
        values[section] = {**(values.get(section) or {}), key: plain}
        places[f"{section}.{key}"] = f"{keyword}={plain!r}"
    return validate(values, path, places)


def check_names(keywords: Iterable[str]) -> None:
    """Raise `InputError` for every keyword that is no setting of a training."""
    errors: list[EvergreenError] = []
    for keyword in keywords:
        with collecting(errors):
            _check_name(keyword)
    raise_all(errors)


@contextmanager
def advice_in_keywords() -> Iterator[None]:
    """Let an error of the block advise the keyword of a setting, where it advises the override of a command."""
    try:
        yield
    except EvergreenError as error:
        advised = [type(fault)(fault.where, fault.what, rewrite_overrides(fault.do, _as_keyword)) for fault in error.errors]
        raise (advised[0] if len(advised) == 1 else CombinedError(advised)) from None


def _as_keyword(key: str, value: str) -> str:
    plain = value if re.fullmatch(r"-?\d+(\.\d+)?", value) else repr(value)
    return f"{key.replace('.', SEPARATOR, 1)}={plain}"


def _check_name(keyword: str) -> None:
    known = [f"{section}{SEPARATOR}{key}" for section in SECTIONS for key in valid_names([section])]
    key = keyword.replace(SEPARATOR, ".", 1)
    if key in FILES:
        raise InputError(keyword, "a training in Python reads no file", "give the rows: evergreen.train(texts, labels)")
    if keyword in known:
        return
    same_end = [name for name in known if name.partition(SEPARATOR)[2] == keyword.rpartition(".")[2]]
    near = same_end or get_close_matches(keyword, known, n=1, cutoff=0)
    what = f"a training has no setting `{keyword}`"
    raise InputError(keyword, what, f"did you mean `{near[0]}`? A key of params.yaml is written section{SEPARATOR}key")
