"""Overrides on a command line mean what `dvc exp run -S` makes of them, and every mistake is reported at its override."""

import shlex
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import EvergreenError, InputError
from pipeline.params.overrides import as_override, load_overridden, rewrite_overrides
from tests.conftest import ROOT

PARAMS = ROOT / "params.yaml"


def errors_of(*overrides: str, path: Path = PARAMS) -> list[EvergreenError]:
    with pytest.raises(InputError) as caught:
        load_overridden(path, overrides)
    return list(caught.value.errors)


def test_overrides_change_their_keys_and_no_file() -> None:
    before = PARAMS.read_bytes()
    params = load_overridden(PARAMS, ["train.epochs=3", "data.source=my.csv", f"{PARAMS}:train.encoder_lr=5e-4"])
    assert (params.train.epochs, params.train.encoder_lr, params.data.source) == (3, 5e-4, Path("my.csv"))
    assert params.model == load_overridden(PARAMS, []).model
    assert PARAMS.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["my.csv", "data/train (1).csv", "with 'quotes'.csv", 'and "these".csv', "ö.csv", "a,b=c.csv", "\\.csv"]
)
def test_a_file_of_any_name_can_be_given_as_an_override(name: str) -> None:
    (typed,) = shlex.split(as_override("data.source", name))
    assert load_overridden(PARAMS, [typed]).data.source == Path(name)


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1))
@example('\\"')
@example("it's\\")
def test_an_override_in_a_sentence_is_found_whole_with_its_value(value: str) -> None:
    advice = f"correct the rows; or go on: -S {as_override('data.source', value)}; then -S split.small_classes=keep"
    found: list[tuple[str, str]] = []

    def note(key: str, value: str) -> str:
        found.append((key, value))
        return "…"

    assert rewrite_overrides(advice, note) == "correct the rows; or go on: …; then …"
    assert found == [("data.source", value), ("split.small_classes", "keep")]


def test_every_mistake_is_reported_at_its_override() -> None:
    errors = errors_of("train.epoch=3", "model.lora_rank=0", "train.optimizer=lyon", "train.epochs=1,2", "data.source=a (1).csv")
    assert [error.where for error in errors] == [
        "-S train.epoch=3",
        "-S train.epochs=1,2",
        "-S data.source=a (1).csv",
        "-S model.lora_rank=0",
        "-S train.optimizer=lyon",
    ]
    assert [error.do.partition(",")[0].partition(" Valid")[0] for error in errors] == [
        "did you mean `train.epochs`?",
        "give one value; a value with a comma needs quotes: quote the value twice",
        "quote the value twice",
        "the nearest that works: 1",
        "did you mean `lion`?",
    ]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.epochs", "cannot be read"),
        ("~train.epochs", "cannot be left out"),
        ("trian.epochs=3", "no key `trian.epochs`"),
        ("train=3", "no key `train`"),
        ("other.yaml:train.epochs=3", "names another file"),
        ("+train.epochs=3", "DVC refuses them"),
    ],
)
def test_what_is_no_override_is_refused(override: str, what: str) -> None:
    (error,) = errors_of(override)
    assert what in error.what


def test_a_mistake_of_the_file_keeps_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = PARAMS.read_text(encoding="utf-8")
    path.write_text(text.replace("  batch_size: 32", "  batch_size: 0"), encoding="utf-8")
    line = next(number for number, line in enumerate(text.splitlines(), start=1) if line.startswith("  batch_size: 32"))
    first, second = errors_of("train.epochs=0", path=path)
    assert (first.where, second.where) == ("-S train.epochs=0", f"{path}, line {line}")
