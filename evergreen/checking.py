"""`evergreen check`: prints what the checks find, and the command that runs what was checked."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.inspection import out
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from pipeline.check.check_line import Mark

MARKS: dict["Mark", tuple[str, str]] = {
    "passed": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
    "detail": (" ", ""),
}


SetParam = Annotated[
    list[str] | None,
    typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="override a key of params.yaml, as dvc exp run does; repeatable"),
]


def check(
    file: Annotated[Path | None, typer.Argument(help="file of labelled texts; default: data.source")] = None,
    set_param: SetParam = None,
) -> None:
    """Check params.yaml, the data and the tools before the pipeline runs; every error is shown."""
    from pipeline.params.overrides import as_override

    overrides = set_param or []
    print_findings(file, overrides)
    if file or overrides:
        settings = [*([as_override("data.source", str(file))] if file else []), *map(shlex.quote, overrides)]
        out.print("next: .venv/bin/evergreen try", *(f"-S {setting}" for setting in settings))


def print_findings(file: Path | None, overrides: list[str]) -> None:
    """Print what each check of the project finds; raise all errors at its end."""
    from pipeline.check.project import check_project

    for line in check_project(source=file, overrides=overrides):
        out.print(styled(*MARKS[line.mark]), line.text)
