"""The table of platforms: what is known names a test that exists, and what is not known says why."""

import re
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.manifests.test_objects import VERSIONS

STATES = ("known", "believed", "not known", "no")


class Row(NamedTuple):
    """One row of the table."""

    what: str
    state: str
    evidence: str


def rows() -> list[Row]:
    lines = (ROOT / "docs/platforms.md").read_text(encoding="utf-8").splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| ")]
    return [Row(*(cell.strip() for cell in row)) for row in cells if row[1].strip() != "state"]


def named_tests(row: Row) -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py)`", row.evidence)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.what)
def test_each_row_has_a_state_and_its_evidence(row: Row) -> None:
    assert row.state in STATES
    assert len(row.evidence) > 20
    assert row.state != "known" or named_tests(row), "what is known names a test"
    for path in named_tests(row):
        assert (ROOT / path).is_file(), path
        assert "\ndef test_" in (ROOT / path).read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    "word",
    ["GPU", "macOS", "WSL", "Python 3.12", "ARM64", "bf16", "AVX2", "PostgreSQL", "S3", "Kubernetes", "Compose", "Alertmanager"],
)
def test_every_platform_that_people_ask_about_has_a_row(word: str) -> None:
    assert any(word in row.what for row in rows())


def test_the_versions_of_kubernetes_are_those_of_the_schemas() -> None:
    (row,) = [row for row in rows() if row.what.startswith("Kubernetes")]
    assert row.what == f"Kubernetes 1.27 and {VERSIONS[-3]} to {VERSIONS[-1].removeprefix('v')}"


def test_python_is_limited_as_the_table_says() -> None:
    assert 'requires-python = ">=3.11,<3.13"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    states = {row.what: row.state for row in rows()}
    assert states["Python 3.13"] == "no"
    assert states["Python 3.12, Linux x86-64"] == "believed"
