"""The security page holds: 35 checks with a state, tests that exist, scopes that are the gateway's."""

import re
from functools import cache
from typing import NamedTuple

import pytest

from serving.gateway.middleware import PUBLIC, SCOPES
from tests.conftest import ROOT

PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
STATES = ("holds", "in part", "not applicable")
SHORTEST_REASON = 40  # characters


class Check(NamedTuple):
    """A row of the table of checks."""

    number: int
    what: str
    state: str
    remarks: str

    @property
    def tests(self) -> list[str]:
        return named_tests(self.remarks)

    @property
    def reason(self) -> str:
        return re.sub(r"`test_\w+`[,:;. ]*", "", self.remarks)


def named_tests(text: str) -> list[str]:
    return re.findall(r"`(test_\w+)`", text)


@cache
def existing_tests() -> frozenset[str]:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return frozenset(name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)\(", source, re.M))


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the tables under a heading, without their heads."""
    section = re.split(r"^## ", PAGE, flags=re.M)
    (text,) = [part for part in section if part.startswith(f"{heading}\n")]
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


CHECKS = [Check(int(number), *cells) for number, *cells in rows("The 35 checks")[1:]]


def test_every_check_has_a_row() -> None:
    assert [check.number for check in CHECKS] == list(range(1, 36))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.number))
def test_a_state_is_shown_by_a_test_or_explained(check: Check) -> None:
    assert check.state in STATES
    assert check.tests or check.state == "not applicable"
    assert len(check.reason) >= SHORTEST_REASON or check.state == "holds"


def test_every_test_that_the_page_names_exists() -> None:
    assert [name for name in named_tests(PAGE) if name not in existing_tests()] == []


def test_every_fault_names_what_injects_it() -> None:
    faults = rows("Faults that are injected")[1:]
    assert [cells[0] for cells in faults] == ["11", "13", "18", "19", "33"]
    assert all(named_tests(cells[2]) for cells in faults)


def test_scopes_of_the_page_are_those_of_the_gateway() -> None:
    listed = {
        route: cells[1].partition(";")[0]
        for cells in rows("Who may do what")
        for route in re.findall(r"`(/[\w./{}]*)`", cells[0])
    }
    files_of_docs = {path for path in PUBLIC if path.startswith("/docs/")}  # "`/docs` and its files"
    assert listed == {**SCOPES, **dict.fromkeys(PUBLIC - files_of_docs, "none")}
