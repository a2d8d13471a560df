"""Overrides of params.yaml on a command line: `-S train.epochs=4`, read and applied by DVC's own code, as `dvc exp run` does."""

import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import EvergreenError, InputError, collecting, raise_all
from pipeline.params.load import Params, load_params, read_values, valid_names, validate

PLAIN = re.compile(r"[\w./-]+", re.ASCII)  # a value that needs no quotes
TYPED = re.compile(r"""-S ((?:'[^']*'|"[^"]*"|[\w./=-])+)""", re.ASCII)  # an override as `as_override` writes it
QUOTES = """quote the value twice, once for the shell and once for DVC: -S 'data.source="train (1).csv"'"""


def load_overridden(path: Path, overrides: Sequence[str]) -> Params:
    """Read params.yaml with these overrides; raise `InputError` for every mistake of an override or of the file."""
    if not overrides:
        return load_params(path)
    read_values(path)  # its own mistakes first
    errors: list[EvergreenError] = []
    places = {}
    usable = []
    for text in (text.removeprefix(f"{path}:") for text in overrides):
        with collecting(errors):
            places[_key(text)] = _place(text)
            usable.append(text)
    with collecting(errors):
        params = validate(_overridden(path, usable), path, places)
    raise_all(errors)
    return params


def as_override(key: str, value: str) -> str:
    """Return an override as it is typed in a shell.

    Inside quotes DVC takes a backslash literally, except before a quote, where backslashes must be doubled.
    """
    escaped = re.sub(r"(\\+)\Z", r"\1\1", re.sub(r'(\\*)"', r'\1\1\\"', value))
    return shlex.quote(f"{key}={value}" if PLAIN.fullmatch(value) else f'{key}="{escaped}"')


def rewrite_overrides(text: str, rewrite: Callable[[str, str], str]) -> str:
    """Return a text in which `rewrite(key, value)` replaces each override that `as_override` wrote after `-S`."""

    def rewritten(typed: re.Match[str]) -> str:
        key, _, value = "".join(shlex.split(typed[1])).partition("=")
        if value.startswith('"'):
            inner = re.sub(r'((?:\\\\)*)\\"', lambda match: match[1][: len(match[1]) // 2] + '"', value[1:-1])
            value = re.sub(r"(\\\\)+\Z", lambda match: match[0][: len(match[0]) // 2], inner)
        return rewrite(key, value)

    return TYPED.sub(rewritten, text)


def _key(text: str) -> str:
    """Return the key that an override changes; raise `InputError` for an unknown key, and for what is no override."""
    from dvc.utils.hydra import to_hydra_overrides  # 0.3 s, and most commands have no overrides
    from hydra.errors import HydraException

    if ":" in text.partition("=")[0]:
        raise InputError(_place(text), "it names another file than params.yaml", "give the key alone, such as train.epochs=4")
    try:
        (parsed,) = to_hydra_overrides([text])
    except HydraException as error:
        raise InputError(_place(text), f"this cannot be read: {str(error).splitlines()[0]}", QUOTES) from None
    if parsed.is_sweep_override():
        what = "it has several values, and a check or a run takes one"
        raise InputError(_place(text), what, f"give one value; a value with a comma needs quotes: {QUOTES}")
    key = str(parsed.key_or_group)
    section, _, name = key.partition(".")
    known = [f"{parent}.{child}" for parent in valid_names([]) for child in valid_names([parent])]
    if key not in known:
        near = get_close_matches(key, known, n=1, cutoff=0) if name else [f"{_nearest_section(section)}.…"]
        raise InputError(_place(text), f"params.yaml has no key `{key}`", f"did you mean `{near[0]}`?")
    if parsed.is_delete():
        raise InputError(_place(text), f"`{key}` cannot be left out", "give it a value")
    return key


def _nearest_section(name: str) -> str:
    return get_close_matches(name, valid_names([]), n=1, cutoff=0)[0]


def _place(text: str) -> str:
    return f"-S {text}"


def _overridden(path: Path, texts: list[str]) -> dict[str, object]:
    """Return the values of a copy of the file in which DVC has applied the overrides."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        shutil.copyfile(path, copy)
        try:
            apply_overrides(copy, texts)
        except DvcException as error:
            what = f"DVC refuses them: {str(error.__cause__ or error).splitlines()[0]}"
            raise InputError(_place(" -S ".join(texts)), what, "write each as key=value") from None
        return read_values(copy)
