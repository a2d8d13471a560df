"""The command `export`: a model as a folder for others, with ONNX, PEFT and a model card."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evergreen.inspection import out
from pipeline.errors import InputError
from pipeline.home import ARTIFACTS, DVC_LOCK, PACKAGE
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from pipeline.card.facts import CardFacts
    from pipeline.params import Params
    from serving.release.offline import NamedPackage


def export(
    to: Annotated[Path, typer.Option(help="folder to write")],
    model: Annotated[str, typer.Option(help="role, version or folder of a package; default: the last one made here")] = str(
        PACKAGE
    ),
    force: Annotated[bool, typer.Option("--force", help="replace the folder if it exists")] = False,
) -> None:
    """Export a model for others: ONNX, a Hugging Face folder for transformers and peft, label maps and a model card."""
    from pipeline.home import find_home
    from pipeline.params import load_params
    from pipeline.runtime.model_files import model_digest
    from serving.release.offline import find_package

    if to.exists():
        _require_replaceable(to, force=force)
    params, home = load_params(), find_home()
    package = find_package(model, home)
    for note in package.notes:
        out.print(styled("!", "yellow"), note)
    from pipeline.sharing.hub_folder import write_folder  # the libraries of a card, once there is a model

    exported = ARTIFACTS / "export"
    is_here = (exported / "model.json").is_file() and model_digest(exported) == model_digest(package.folder / "1")
    facts = _facts(package, params, home, is_here=is_here)
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_folder(part, facts, package.folder / "1", ARTIFACTS / "model" if is_here else None, params.model)
        shutil.rmtree(to, ignore_errors=True)
        part.replace(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for path in sorted(path for path in to.rglob("*") if path.is_file()):
        out.print(f"  {path.stat().st_size / 1024:>9,.0f} KiB  {path.relative_to(to)}")
    out.print(styled("✓", "green"), f"{package.title} → {to}; its card: {to / 'README.md'}")
    if not is_here:
        commit = facts.origin.get("git_commit")
        out.print("without the adapter for transformers and peft: artifacts/ holds another model")
        out.print(f"to add it, restore that model and export again: git checkout {commit} && .venv/bin/dvc checkout")


def _require_replaceable(folder: Path, *, force: bool) -> None:
    """Raise `InputError` unless the folder is an earlier export that may be deleted."""
    from pipeline.sharing.hub_folder import is_export

    if not (force and is_export(folder)):
        raise InputError(str(folder), "the folder exists", "name another folder, or replace an earlier export: --force")


def _facts(package: "NamedPackage", params: "Params", home: Path, *, is_here: bool) -> "CardFacts":
    """Gather what the card reports: from the package; what it lacks from dvc.lock when that made it, or from its MLflow run."""
    from pipeline.card.facts import read_facts
    from serving.release.inputs import locked_inputs

    title = f"{params.publish.name} version {package.version}" if package.version else params.publish.name
    facts = read_facts(package.folder, title, params.model.base)
    if is_here:
        locked = locked_inputs(DVC_LOCK).params  # which params.yaml need not hold any more
        facts = facts._replace(params={name: str(value) for name, value in locked.items()})
    elif not facts.scores:  # published before the package held them
        logged, scores, report = _logged_facts(facts.origin.get("mlflow_run_id"), home)
        facts = facts._replace(params=logged or facts.params, scores=scores, report=report)
    method = facts.params.get("model.method", params.model.method)
    return facts._replace(is_adapter=is_here and method == "lora")


def _logged_facts(run_id: str | None, home: Path) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """Return params, scores and report of an MLflow run; empty where it has none, or cannot be reached."""
    import json

    from pipeline.tracking.logged_runs import find_run, read_evaluation

    run = find_run(run_id, home) if run_id else None
    if run is None:
        return {}, {}, {}
    files = (read_evaluation(run.id, name, home) for name in ("metrics.json", "report.json"))
    scores, report = (json.loads(content) if content else {} for content in files)
    return run.params, scores, report
