"""README matches the project: its commands, links and packages exist."""

import re
from pathlib import Path

import pytest

from evergreen.cli import app
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCES = re.findall(r"```(?:sh|console|text)?\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = sorted(
    {line.strip() for fence in FENCES for line in fence.splitlines() if line.strip().startswith((".venv/bin/", "make "))}
)


def test_readme_has_commands() -> None:
    assert any(command.startswith("make repro") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_readme_exists(command: str) -> None:
    program, *arguments = command.split()
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert arguments[0] in targets
    elif program.endswith("/evergreen"):
        assert arguments[0] in {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}
    else:
        assert (ROOT / program).exists()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_every_link_in_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_readme_names_every_top_level_package() -> None:
    packages = [path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    assert [package for package in packages if f"{package}/" not in README] == []


def test_makefile_targets_are_all_explained() -> None:
    makefile = Path(ROOT / "Makefile").read_text()
    assert re.findall(r"^([a-z-]+):(?!.*##)", makefile, flags=re.MULTILINE) == []
