"""params.yaml and its records have the same keys, and every mistake is reported with file, line and nearest name."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline.errors import EXIT_BAD_INPUT, InputError
from pipeline.params import Params, flatten, integers, load_params
from tests.conftest import ROOT

LINES = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()


def line_of(start: str) -> int:
    """Return the number, from 1, of the first line of params.yaml with this start."""
    return next(number for number, line in enumerate(LINES, start=1) if line.startswith(start))


def refused(folder: Path, lines: list[str]) -> InputError:
    """Return the error that a params.yaml of these lines raises."""
    path = folder / "params.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert caught.value.where.startswith(str(path))
    return caught.value


def replaced(start: str, *lines: str) -> list[str]:
    """Return params.yaml with the first line of this start replaced."""
    index = line_of(start) - 1
    return [*LINES[:index], *lines, *LINES[index + 1 :]]


def keys(tree: Any, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {prefix}
    return {key for name, subtree in tree.items() for key in keys(subtree, f"{prefix}.{name}".lstrip("."))}


def fields(record: type[BaseModel], prefix: str = "") -> set[str]:
    paths = set()
    for name, field in record.model_fields.items():
        inner, path = field.annotation, f"{prefix}.{name}".lstrip(".")
        paths |= fields(inner, path) if isinstance(inner, type) and issubclass(inner, BaseModel) else {path}
    return paths


def defaults(record: type[BaseModel]) -> list[str]:
    """Return the fields that may be left out."""
    return [name for name, field in record.model_fields.items() if not field.is_required()]


def test_the_shipped_file_loads() -> None:
    values = yaml.safe_load("\n".join(LINES))
    loaded = load_params(ROOT / "params.yaml")
    assert loaded.train.epochs == values["train"]["epochs"]
    assert loaded.data.source == Path(values["data"]["source"])


def test_every_key_has_a_field_and_every_field_a_key() -> None:
    assert keys(yaml.safe_load("\n".join(LINES))) == fields(Params)


def test_no_field_has_a_default() -> None:
    sections = [field.annotation for field in Params.model_fields.values()]
    assert [name for section in [Params, *sections] if section for name in defaults(section)] == []


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_params(ROOT / "params.yaml").train.epochs = 3


def test_an_unknown_key_is_reported_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    error = refused(tmp_path, replaced("train:", "train:", "  epoch: 3"))
    assert error.where.endswith(f", line {line_of('train:') + 1}")
    assert "`train.epoch`" in error.what
    assert "did you mean `epochs`?" in error.do
    assert error.exit_code == EXIT_BAD_INPUT


@pytest.mark.parametrize(
    ("start", "written", "name", "nearest"),
    [
        ("  epochs:", "  epoch: 6", "train.epoch", "epochs"),
        ("  lora_rank:", "  lora_rnak: 8", "model.lora_rnak", "lora_rank"),
        ("serve:", "server:", "server", "serve"),
    ],
)
def test_a_misspelt_key_is_reported_with_its_own_line(tmp_path: Path, start: str, written: str, name: str, nearest: str) -> None:
    error = refused(tmp_path, replaced(start, written))
    assert error.where.endswith(f", line {line_of(start)}")
    assert f"`{name}`" in error.what
    assert f"`{nearest}`" in error.do


def test_every_mistake_of_the_file_is_reported_and_a_misspelt_key_once(tmp_path: Path) -> None:
    error = refused(
        tmp_path, [line.replace("  epochs: 6", "  epoch: 6").replace("lora_rank: 32", "lora_rank: 0") for line in LINES]
    )
    places = [f"{tmp_path / 'params.yaml'}, line {line_of(start)}" for start in ("  epochs:", "  lora_rank:")]
    assert [each.where for each in error.errors] == places


def test_a_value_of_two_types_is_one_mistake(tmp_path: Path) -> None:
    error = refused(tmp_path, replaced("  rows_a_class:", "  rows_a_class: some"))
    assert len(error.errors) == 1
    assert "`split.rows_a_class` = 'some'" in error.what


def test_an_unknown_section_is_reported_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    error = refused(tmp_path, [*LINES, "exports:", "  opset: 18"])
    assert error.where.endswith(f", line {len(LINES) + 1}")
    assert "did you mean `export`?" in error.do


def test_a_missing_key_is_reported_with_the_line_of_its_section(tmp_path: Path) -> None:
    error = refused(tmp_path, replaced("  epochs:"))
    assert error.where.endswith(f", line {line_of('train:')}")
    assert error.what == "the key `train.epochs` is missing"


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, LINES[: line_of("serve:") - 1])
    assert error.what == "the key `serve` is missing"


@pytest.mark.parametrize(
    ("start", "written"),
    [
        ("  epochs:", "  epochs: many"),
        ("  epochs:", "  epochs: 0"),
        ("  epochs:", "  epochs: 2.5"),
        ("  epochs:", "  epochs: yes"),  # YAML reads true
        ("  epochs:", "  epochs:"),
        ("  encoder_lr:", "  encoder_lr: .nan"),
        ("  encoder_lr:", "  encoder_lr: -1.0"),
        ("  val_share:", "  val_share: 10"),
        ("  small_classes:", "  small_classes: drop"),
        ("  text_column:", "  text_column: 3"),
        ("  source:", "  source: [a.csv, b.csv]"),
        ("  parity_batches:", "  parity_batches: 1, 2, 3"),
        ("  http_port:", "  http_port: 80000"),
    ],
)
def test_an_unusable_value_is_reported_with_its_line_and_key(tmp_path: Path, start: str, written: str) -> None:
    error = refused(tmp_path, replaced(start, written))
    assert error.where.endswith(f", line {line_of(start)}")
    assert f".{start.strip(' :')}` = " in error.what


@pytest.mark.parametrize(
    ("start", "written", "nearest"),
    [
        ("  lora_rank:", "  lora_rank: 0", "the nearest that works: 1"),
        ("  optimizer:", "  optimizer: adam", "did you mean `adamw`? Valid here: adamw, lion, sgd"),
        ("  schedule:", "  schedule: cosin", "did you mean `cosine`?"),
        ("  http_port:", "  http_port: 80000", "the nearest that works: 65535"),
        ("  explosion_backoff:", "  explosion_backoff: 1.5", "use a number below 1"),
    ],
)
def test_an_unusable_value_is_reported_with_the_nearest_that_works(
    tmp_path: Path, start: str, written: str, nearest: str
) -> None:
    assert nearest in refused(tmp_path, replaced(start, written)).do


def test_a_number_in_place_of_a_section_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, [*LINES[: line_of("serve:") - 1], "serve: 8000"])
    assert error.where.endswith(f", line {line_of('serve:')}")
    assert "`serve` = 8000" in error.what


@pytest.mark.parametrize("written", ["\tepochs: 6", "  epochs: [6", '  epochs: "6', "  epochs: 6: 7"])
def test_invalid_yaml_is_reported_with_a_line_near_the_mistake(tmp_path: Path, written: str) -> None:
    error = refused(tmp_path, replaced("  epochs:", written))
    assert "not valid YAML" in error.what
    expected = {line_of("  epochs:"), line_of("  epochs:") + 1, len(LINES) + 1}  # an open quote or bracket is noticed later
    assert expected & {int(number) for number in re.findall(r"line (\d+)", str(error))}


def test_a_value_that_yaml_cannot_construct_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, replaced("  revision:", "  revision: 2026-02-30"))  # read as a date, and there is no such day
    assert "not valid YAML" in error.what


@pytest.mark.parametrize("content", ["", "# nothing\n", "- a\n- b\n", "42\n"])
def test_a_file_without_sections_is_refused(tmp_path: Path, content: str) -> None:
    assert "no sections" in refused(tmp_path, content.splitlines()).what


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file") as caught:
        load_params(tmp_path / "params.yaml")
    assert caught.value.where == str(tmp_path / "params.yaml")


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"data:\n  source: caf\xe9.csv\n")
    with pytest.raises(InputError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_flat_names_are_those_of_dvc(params: Params) -> None:
    flat = flatten(params.train, "train")
    assert flat["train.epochs"] == str(params.train.epochs)
    assert len(flat) == len(type(params.train).model_fields)


def test_integers_are_separated_by_spaces() -> None:
    assert integers("1 2 16") == [1, 2, 16]


@pytest.mark.parametrize("network", ["nowhere", "10.0.0.1/8", "10.0.0.0/33", "'*'"])
def test_a_trusted_proxy_that_is_no_network_is_reported_with_its_line(tmp_path: Path, network: str) -> None:
    error = refused(tmp_path, replaced("  trusted_proxies:", f"  trusted_proxies: [10.0.0.0/8, {network}]"))
    assert error.where.endswith(f", line {line_of('  trusted_proxies:')}")
    assert "`gateway.trusted_proxies.1` = " in error.what


@pytest.mark.parametrize(
    ("start", "file"),
    [
        ("  test:", "data/no_test.csv"),
        ("  unlabelled:", "data/no_unlabelled.csv"),
        ("  out_of_scope:", "data/no_out_of_scope.csv"),
        ("  source:", "the name of a file"),
    ],
)
@pytest.mark.parametrize("written", ["null", "", '""'])
def test_an_empty_name_of_a_file_is_refused_with_what_to_write(tmp_path: Path, start: str, file: str, written: str) -> None:
    assert f"write {file}" in refused(tmp_path, replaced(start, f"{start} {written}")).what
