"""The read-only commands: status, why and gate. They format what the packages return."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pipeline.errors import RefusedError
from pipeline.home import ARTIFACTS, PACKAGE
from pipeline.output.shares import percent
from pipeline.output.terminal import Terminal, joined, styled

if TYPE_CHECKING:
    from monitoring.retrain.history.sources import Sources
    from pipeline.abstention import Abstention
    from pipeline.params import Params

out = Terminal()
METRICS = Path("artifacts/evaluation/metrics.json")
REPRO = {"make repro": "make and publish the first version"}
SERVE = {"make serve": 'serve the champion (then: .venv/bin/evergreen ask "…")'}
ASK = {'.venv/bin/evergreen ask "…"': "ask the champion"}
WATCH = {"make watch": "watch its traffic for drift"}
LOOK = {
    ".venv/bin/evergreen why champion": "show the origin of the champion",
    "make ui": "look at the run in MLflow",
    ".venv/bin/evergreen try -S train.epochs=4": "try other params, up to the scores",
}
MARKS = {"this home": ("✓", "green"), "nobody": ("–", "dim"), "another": ("!", "yellow"), "unknown": ("?", "yellow")}
DECISIONS_SHOWN = 5


def status() -> None:
    """Show the served versions, running processes, last decisions, scores of the last model, and next commands."""
    from monitoring.retrain.history.sources import open_sources
    from pipeline.home import find_home
    from pipeline.params import load_params

    home, params = find_home(), load_params()
    with open_sources(home, params) as sources:
        _print_unread(sources)
        has_champion = _print_served(sources)
        running = _print_running(sources, params)
        _print_decisions(sources)
    if METRICS.is_file():
        scores = json.loads(METRICS.read_text(encoding="utf-8"))
        print_scores("the last model made here, and its control", "on the test rows", {"fine-tuned": scores["test"]}, scores)
    out.print("everything is in")
    out.print(f"  {home}  state: MLflow, live models, DVC remote")
    out.print(f"  {Path('artifacts').absolute()}  artifacts of the pipeline")
    out.print("next:")
    for command, reason in next_commands(running, has_champion=has_champion).items():
        out.print(f"  {command:<45}{reason}")


def next_commands(running: Collection[str], *, has_champion: bool) -> dict[str, str]:
    """Return what makes sense next, with the reason: never to start what runs, nor to ask a version that does not exist."""
    if not has_champion:
        return REPRO
    if not {"gateway", "Triton"} <= set(running):
        return SERVE | LOOK
    return ASK | ({} if "monitor" in running else WATCH) | LOOK


def why(
    subject: Annotated[
        str, typer.Argument(help="an alert, a version or role, a request or prediction id", metavar="ALERT|VERSION|ID")
    ],
) -> None:
    """Show the history of an alert, a version or an answer: request, model, run, commit, data, decision and alert."""
    from monitoring.retrain.history import lineage
    from monitoring.retrain.history.sources import open_sources
    from pipeline.home import find_home
    from pipeline.params import load_params

    with open_sources(find_home(), load_params()) as sources:
        _print_unread(sources)
        entries = lineage.trace(subject, sources)
    for entry in entries:
        table = Table.grid(padding=(0, 2))
        for name, fact in entry.facts:
            table.add_row(styled(name, "dim"), fact)
        tree = Tree(joined(styled(entry.kind, "bold green"), f" {entry.name}"), guide_style="dim")
        tree.add(table)
        out.print(tree)


def gate(
    package: Annotated[Path, typer.Option(help="folder of the candidate")] = PACKAGE,
    split: Annotated[Path, typer.Option(help="folder of the current split, for its test rows")] = ARTIFACTS / "split",
    feedback: Annotated[Path, typer.Option(help="folder of accepted labels")] = Path("data/feedback"),
) -> None:
    """Compare the packaged model with the champion on the current test rows; exit code 4 means refused."""
    from monitoring.retrain.gate import candidate
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.release.manifest import model_name, repository
    from serving.release.offline import outdated_note
    from serving.release.publish import champion

    home = find_home()
    if note := outdated_note(package):
        out.print(styled("!", "yellow"), note)
    release = champion(home)
    folder = repository(home) / model_name(release.version) if release else None
    out.print(f"the packaged model against {f'version {release.version}' if release else 'no champion: floors alone'} …")
    verdict = candidate.gate(package, folder, split=split, feedback=feedback, params=load_params(), home=home)
    for reason in verdict.reasons:
        out.print(" ", styled("·", "green" if verdict.passed else "red"), reason)
    if not verdict.passed:
        raise RefusedError(str(package), "the gate refused it", "the champion stays; docs/gate.md explains each reason")
    out.print(styled("✓", "green"), "passed; next: .venv/bin/evergreen publish")


def _print_unread(sources: "Sources") -> None:
    """Say that the database is older than this program, and what is left out for that reason."""
    if sources.unread:
        what = f"the state database is of an earlier release: nothing is read from {', '.join(sources.unread)}"
        out.print(styled("!", "yellow"), f"{what}; make serve and make watch migrate it")


def _print_served(sources: "Sources") -> bool:
    """Print the versions by role; return whether there is a champion."""
    import sqlalchemy as sa

    from monitoring.retrain.history.sources import read_lineage
    from pipeline.abstention import NEVER, read_abstention
    from serving.release.manifest import version_folder
    from serving.release.release_table import UNIQUE_ROLES
    from state.tables import releases, routing

    by_role = {row["role"]: row for row in sources.rows(sa.select(releases), releases) if row["role"] in UNIQUE_ROLES}
    shares = next(iter(sources.rows(sa.select(routing), routing)), {})
    if "champion" not in by_role:
        out.print("champion: none yet")
    for role in UNIQUE_ROLES:
        if role not in by_role:
            continue
        version = by_role[role]["version"]
        lineage, _ = read_lineage(version, sources.home)
        parent = f", after version {lineage['parent_version']}" if lineage.get("parent_version") else ""
        out.print(f"{role}: version {version}, published {by_role[role]['published_at']:%Y-%m-%d %H:%M} UTC{parent}")
        if (abstention := read_abstention(version_folder(sources.home, version))) != NEVER:
            out.print(f"  it {describe_abstention(abstention)}")
    if shares.get("challenger_weight") or shares.get("shadow_share"):
        units, copies = shares["challenger_weight"], shares["shadow_share"]
        out.print(f"  the challenger answers {units:.0%} of units and gets copies of {copies:.0%} of texts")
    return "champion" in by_role


def describe_abstention(abstention: "Abstention") -> str:
    """Return in words when a version abstains, from how many texts that is expected, and what callers get."""
    share = abstention.expected_share
    expected = "" if share is None else f", from at most {percent(share)} of texts like the test rows"
    return f"abstains below confidence {abstention.threshold:.3f}{expected}: {abstention.fallback or 'null'} instead of a label"


def _print_running(sources: "Sources", params: "Params") -> set[str]:
    """Print what runs, waiting jobs and the running retrain; return the names of this home's processes."""
    import sqlalchemy as sa

    from monitoring.local.services import find_services
    from monitoring.retrain.history.sources import format_time
    from state.tables import jobs, retrains

    services = find_services(params, sources.home)
    out.print("running:", Text("  ").join(joined(styled(*MARKS[service.owner]), f" {service.name}") for service in services))
    for service in services:
        if service.doubt:
            out.print(f"  {service.name}: {service.doubt}")
    waits = jobs.c.status.in_(("queued", "running"))
    counted = sa.select(jobs.c.status, sa.func.count().label("count")).where(waits).group_by(jobs.c.status)
    if waiting := sources.rows(counted, jobs):
        out.print("jobs: " + ", ".join(f"{row['count']} {row['status']}" for row in waiting))
    for row in sources.rows(sa.select(retrains).where(retrains.c.state == "running"), retrains):
        from monitoring.clock import read_clock
        from monitoring.retrain_activity import describe_running

        out.print(f"retrain {row['id']}, begun {format_time(row['began_wall'])}: {describe_running(row, read_clock())}")
    _print_release(sources, params)
    return {service.name for service in services if service.is_running}


def _print_release(sources: "Sources", params: "Params") -> None:
    """Print the gradual release that runs, with its evidence, or how the last one ended."""
    from monitoring.release.runs import newest_runs
    from state.tables import release_runs

    if sources.connection is None or release_runs.name not in sources.tables:
        return
    for run in newest_runs(sources.connection, 1):
        from monitoring.release.facts import release_facts  # imports scipy, which only a release needs

        out.print(f"{'release' if run.outcome is None else 'last release'}: version {run.version}")
        for name, fact in release_facts(run, params.release):
            if run.outcome is None or name in ("ended", "outcome"):
                out.print(f"  {name}: {fact}")


def _print_decisions(sources: "Sources") -> None:
    import sqlalchemy as sa

    from monitoring.decisions import describe_decision
    from monitoring.retrain.history.sources import format_time
    from state.tables import decisions, retrains

    last = sources.rows(sa.select(decisions).order_by(decisions.c.id.desc()).limit(DECISIONS_SHOWN), decisions)
    if not last:
        return
    retrains_by_id = {row["id"]: row for row in sources.rows(sa.select(retrains), retrains)}
    table = Table("when", "alert", "decision", "outcome", title="last decisions", title_justify="left")
    for row in last:
        retrain = retrains_by_id.get(row["retrain_id"], {})
        outcome = f"version {retrain['version_out']}" if retrain.get("version_out") else retrain.get("state", "")
        alert = f"{row['alertname']}, version {row['version'] or 'none'}"
        table.add_row(format_time(row["at"]), alert, describe_decision(row["verdict"], row["reason"]), outcome)
    out.print(table)


def print_scores(title: str, rows: str, shown: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Any]) -> None:
    """Print these scores above the control's, and advice where the model in `artifacts/evaluation` is not better than that."""
    from pipeline.card.advice import control_advice
    from pipeline.card.facts import read_report
    from pipeline.params import load_params

    table = Table(rows, "accuracy", "macro-F1", title=title, title_justify="left")
    for name, row in {**shown, "frozen encoder + logistic regression": metrics["control"]}.items():
        table.add_row(name, f"{row['accuracy']:.4f}", f"{row['f1_macro']:.4f}")
    out.print(table)
    for line in control_advice(metrics, read_report(METRICS.with_name("report.json")), load_params().train.frozen):
        out.print(styled("!", "yellow"), line)
