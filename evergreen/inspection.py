"""The read-only commands: status, why, backtest and gate. They format what the packages return."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pipeline.errors import InputError, RefusedError
from pipeline.home import ARTIFACTS, PACKAGE
from pipeline.output.shares import percent
from pipeline.output.terminal import Terminal, joined, styled

if TYPE_CHECKING:
    from monitoring.retrain.history.backtest import PolicyReplay
    from monitoring.retrain.history.sources import Sources
    from pipeline.abstention import Abstention
    from pipeline.params import Params

out = Terminal()
METRICS, TRAINING = Path("artifacts/evaluation/metrics.json"), Path("artifacts/training/metrics.json")
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


def backtest(
    params: Annotated[Path | None, typer.Option(help="another params.yaml whose thresholds and `retrain` to try")] = None,
    false_alarms: Annotated[list[float] | None, typer.Option(help="false alarms a week to try; may be repeated")] = None,
    retrain: Annotated[
        list[str] | None, typer.Option(help="values of `retrain` to try, as cooldown_s=3600,min_labels=20; may be repeated")
    ] = None,
    retrain_s: Annotated[float | None, typer.Option(help="seconds of a retrain; default: as measured")] = None,
    picture: Annotated[Path, typer.Option(help="file of the chart")] = Path("reports/backtest.png"),
) -> None:
    """Replay the stored signals under other settings and show the alerts, the retrains and their cost."""
    from monitoring.retrain.history import backtest as history
    from monitoring.retrain.history.replay import Policy
    from monitoring.retrain.history.sources import open_sources
    from pipeline.home import find_home
    from pipeline.params import load_params

    home, current = find_home(), load_params()
    with open_sources(home, current) as sources:
        stored = history.read_stored_signals(sources)
        cost_s, source = _retrain_s(retrain_s, history.measured_retrain_s(sources))
    policy = Policy(current.monitor, current.retrain, cost_s)
    policies = {"these params": policy}
    if params:
        other = load_params(params)
        policies[str(params)] = policy._replace(monitor=other.monitor, retrain=other.retrain)
    for rate in false_alarms or []:
        policies[f"{rate:g} a week"] = policy._replace(monitor=current.monitor.model_copy(update={"false_alarms_per_week": rate}))
    for text in retrain or []:
        policies[text] = policy._replace(retrain=history.other_settings(current.retrain, text))
    hold_s = current.alerts.keep_firing_s
    replays = [history.replay_policy("as it fired", stored, history.recorded_alarms, policy, hold_s, promised=None)]
    log_limits = {}
    for name, tried in policies.items():
        thresholds = history.thresholds_under(tried.monitor, current.monitor, stored, home)
        log_limits[name] = history.highest_log_threshold(thresholds)
        promised = history.promised_false_alarms(stored.points, tried.monitor)
        alarms = history.alarms_under(thresholds)
        replays.append(history.replay_policy(name, stored, alarms, tried, hold_s, promised=promised))
    _print_backtest(replays, cost_s, source)
    picture.parent.mkdir(parents=True, exist_ok=True)
    history.draw(stored.points, replays, log_limits).savefig(picture, dpi=120)
    out.print(f"chart → {picture}")


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
    return {service.name for service in services if service.is_running}


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


def _print_backtest(replays: Sequence["PolicyReplay"], cost_s: float, source: str) -> None:
    from monitoring.retrain.history.backtest import STREAM
    from monitoring.retrain.history.sources import format_time

    table = Table(
        "policy", "promised", "stream alerts", "window alerts", "first", "retrains", "compute", "joined", "refused", "waiting"
    )  # fmt: skip
    for replay in replays:
        streams = sum(decided.alert.alertname == STREAM for decided in replay.decisions)
        first = format_time(replay.decisions[0].alert.began_at) if replay.decisions else "never"
        table.add_row(
            replay.name, "" if replay.promised is None else f"{replay.promised:.2g} false", str(streams),
            str(len(replay.decisions) - streams), first,
            f"at most {len(replay.retrains)}", f"{len(replay.retrains) * cost_s / 3600:.2f} h",
            *(_reasons(replay, outcome) for outcome in ("joined", "refused", "waiting")),
        )  # fmt: skip
    out.print(table)
    out.print(f"a retrain counts as {cost_s:.0f} s ({source}); decisions assume that nobody commits during the replay")
    for replay in replays:
        for decided in replay.decisions[:DECISIONS_SHOWN]:
            alert = decided.alert
            line = f"{alert.alertname} {alert.signal}, version {alert.version}: {decided.outcome} ({decided.reason})"
            out.print(" ", styled(replay.name, "dim"), f"{format_time(decided.at)}  {line}")
        if len(replay.decisions) > DECISIONS_SHOWN:
            out.print(" ", styled(replay.name, "dim"), f"… and {len(replay.decisions) - DECISIONS_SHOWN} more")


def _reasons(replay: "PolicyReplay", outcome: str) -> str:
    """Count the decisions with this outcome by reason: `cooldown 3, over 1`."""
    counts = Counter(decided.reason for decided in replay.decisions if decided.outcome == outcome)
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "0"


def _retrain_s(given: float | None, measured: float | None) -> tuple[float, str]:
    """Return the seconds of a retrain and their source."""
    if given is not None:
        return given, "given"
    if measured is not None:
        return measured, "median of the journal"
    if TRAINING.is_file():
        seconds = json.loads(TRAINING.read_text(encoding="utf-8"))["seconds"]
        return float(seconds), "the last training here, without other stages"
    raise InputError("--retrain-s", "no retrain and no training has been measured here", "give its seconds: --retrain-s 300")


def print_scores(title: str, rows: str, shown: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Any]) -> None:
    """Print these scores above the control's, and advice where the model in `artifacts/evaluation` is not better than that."""
    from pipeline.card.advice import control_advice
    from pipeline.card.facts import read_report

    table = Table(rows, "accuracy", "macro-F1", title=title, title_justify="left")
    for name, row in {**shown, "frozen encoder + logistic regression": metrics["control"]}.items():
        table.add_row(name, f"{row['accuracy']:.4f}", f"{row['f1_macro']:.4f}")
    out.print(table)
    for line in control_advice(metrics, read_report(METRICS.with_name("report.json"))):
        out.print(styled("!", "yellow"), line)
