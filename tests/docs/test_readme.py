"""README, CONTRIBUTING and docs match the project: their commands, links and files exist, and README stays short."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from evergreen.cli import app
from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRAPPED = [README, *(ROOT / path for path in ("CONTRIBUTING.md", "CHANGELOG.md", "docs/your-data.md", "docs/glossary.md"))]
LINKED = [*PAGES, ROOT / "EXPERIMENTS.md", *sorted((ROOT / "docs").glob("*/*.md"))]
MOST_LINES, WIDTH = 150, 100
FENCE = re.compile(r"```(?:sh|console|text)?\n(.*?)```", flags=re.DOTALL)
COMMAND = re.compile(r"\.venv/bin/[^`|]+|make [a-z-]+[^`|]*")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#]*#[^)]+)")
CITED = re.compile(r"\b((?:pipeline|serving|state|monitoring|evergreen|tests)/[\w/.-]*\w/?)")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands(page: Path) -> set[str]:
    """Return the commands of a page: lines of code blocks, and code between backticks."""
    blocks, text = FENCE.findall(read(page)), FENCE.sub("", read(page))
    code = [line.strip() for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    return {match[0].strip() for line in code if (match := COMMAND.match(line))}


def pairs(find: re.Pattern[str], pages: list[Path]) -> list[tuple[str, str]]:
    """Return every page's path with each different match in it."""
    return [(str(page.relative_to(ROOT)), match) for page in pages for match in sorted(set(find.findall(read(page))))]


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def names_of(commands: Any) -> set[str]:
    """Return the names of the commands of a typer app."""
    return {info.name or info.callback.__name__ for info in commands.registered_commands if info.callback}


COMMANDS = [(str(page.relative_to(ROOT)), command) for page in PAGES for command in sorted(commands(page))]


def test_readme_has_commands() -> None:
    assert {"make repro", "make serve"} <= commands(README)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_exists(page: str, command: str) -> None:
    program, *arguments = command.split()
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), flags=re.MULTILINE)
        assert arguments[0] in targets
    elif program.endswith("/evergreen"):
        groups = {group.name: group.typer_instance for group in app.registered_groups}
        group = groups.get(arguments[0])
        if group is None or not arguments[1:] or arguments[1].startswith("-"):  # a group shows something by itself
            assert arguments[0] in names_of(app) or (group is not None and group.registered_callback)
        else:
            assert arguments[1] in names_of(group)
    elif arguments[:1] == ["-m"]:
        assert find_spec(arguments[1])
    else:
        assert (ROOT / program).exists()


@pytest.mark.parametrize(("page", "link"), pairs(LINK, LINKED))
def test_every_link_leads_somewhere(page: str, link: str) -> None:
    assert ((ROOT / page).parent / link).exists()


@pytest.mark.parametrize(("page", "link"), pairs(ANCHOR, LINKED))
def test_every_anchor_is_a_heading(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.+)$", read(target), flags=re.MULTILINE)}


@pytest.mark.parametrize(("page", "path"), pairs(CITED, PAGES))
def test_every_cited_file_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists()


def test_every_page_of_docs_is_named_in_readme() -> None:
    pages = [path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")]
    assert [page for page in pages if f"({page})" not in read(README)] == []


@pytest.mark.parametrize("page", WRAPPED, ids=lambda page: page.name)
def test_lines_are_wrapped(page: Path) -> None:
    assert [line for line in read(page).splitlines() if len(line) > WIDTH] == []


def test_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= MOST_LINES


def test_readme_names_every_top_level_package() -> None:
    packages = [path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    assert [package for package in packages if f"{package}/" not in read(README)] == []


def test_makefile_targets_are_all_explained() -> None:
    assert re.findall(r"^([a-z-]+):(?!.*##)", read(ROOT / "Makefile"), flags=re.MULTILINE) == []
