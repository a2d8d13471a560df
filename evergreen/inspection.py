"""Commands that look and change nothing served: status, why, backtest, gate. What there is to say comes from the packages."""

import json
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from pipeline.errors import InputError, RefusedError

if TYPE_CHECKING:
    from monitoring.retrain.history.backtest import Replay
    from monitoring.retrain.history.stores import Stores
    from pipeline.params import Params

out = Console(highlight=False, soft_wrap=True)
METRICS, TRAINING = Path("artifacts/evaluation/metrics.json"), Path("artifacts/training/metrics.json")
NEXT = {
    "make serve": 'serve the champion (then: .venv/bin/evergreen ask "…")',
    ".venv/bin/evergreen why champion": "where what serves comes from",
    "make ui": "look at the run in MLflow",
    ".venv/bin/dvc exp run -S train.epochs=4": "try something else",
}
PROBE_S = 0.2
DECISIONS_SHOWN = 5


def status() -> None:
    """What serves, what runs, the last decisions, how good the last model is, and what to do next."""
    from monitoring.retrain.history.stores import stores
    from pipeline.home import find_home
    from pipeline.params import load_params

    home, params = find_home(), load_params()
    with stores(home, params) as at:
        _print_served(at)
        _print_running(at, params)
        _print_decisions(at)
    if METRICS.is_file():
        out.print(_scores(json.loads(METRICS.read_text(encoding="utf-8"))))
    out.print(f"everything lives in\n  {escape(str(home))}  state: MLflow, live models, DVC remote")
    out.print(f"  {escape(str(Path('artifacts').absolute()))}  what the pipeline made\nnext:")
    for command, reason in NEXT.items():
        out.print(f"  {command:<45}{reason}")


def why(
    asked: Annotated[
        str, typer.Argument(help="an alert, a version or role, a request or prediction id", metavar="ALERT|VERSION|ID")
    ],
) -> None:
    """The chain behind an alert, a version or an answer: from request to model, run, commit, data, decision and alert."""
    from monitoring.retrain.history.lineage import why as chain
    from monitoring.retrain.history.stores import stores
    from pipeline.home import find_home
    from pipeline.params import load_params

    with stores(find_home(), load_params()) as at:
        links = chain(asked, at)
    for link in links:
        table = Table.grid(padding=(0, 2))
        for name, what in link.facts:
            table.add_row(f"[dim]{escape(name)}[/]", escape(what))
        tree = Tree(f"[bold green]{link.kind}[/] {escape(link.name)}", guide_style="dim")
        tree.add(table)
        out.print(tree)


def backtest(
    params: Annotated[Path | None, typer.Option(help="another params.yaml, whose thresholds and `retrain` are tried")] = None,
    false_alarms: Annotated[
        list[float] | None, typer.Option(help="promised false alarms a week to try, as often as needed")
    ] = None,
    retrain: Annotated[
        list[str] | None, typer.Option(help="values of `retrain` to try, as often as needed: cooldown_s=3600,min_labels=20")
    ] = None,
    retrain_s: Annotated[float | None, typer.Option(help="seconds of a retrain; by default as measured")] = None,
    picture: Annotated[Path, typer.Option(help="where the picture goes")] = Path("reports/backtest.png"),
) -> None:
    """Replay the stored signals under other settings: what would have fired, which retrains had been started, at what cost."""
    from monitoring.retrain.history import backtest as past
    from monitoring.retrain.history.replay import Policy
    from monitoring.retrain.history.stores import stores
    from pipeline.home import find_home
    from pipeline.params import load_params

    home, here = find_home(), load_params()
    with stores(home, here) as at:
        kept = past.stored(at)
        cost_s, source = _retrain_s(retrain_s, past.measured_retrain_s(at))
    own = Policy(here.monitor, here.retrain, cost_s)
    tried = {"these params": own}
    if params:
        other = load_params(params)
        tried[str(params)] = own._replace(monitor=other.monitor, retrain=other.retrain)
    for rate in false_alarms or []:
        tried[f"{rate:g} a week"] = own._replace(monitor=here.monitor.model_copy(update={"false_alarms_per_week": rate}))
    for text in retrain or []:
        tried[text] = own._replace(retrain=past.other_settings(here.retrain, text))
    hold_s = here.alerts.keep_firing_s
    replays = [past.replay("what did fire", kept, past.did_fire, own, hold_s, promised=None)]
    log_limits = {}
    for name, policy in tried.items():
        limits = past.limits_under(policy.monitor, here.monitor, kept, home)
        log_limits[name] = past.highest(limits)
        promised = past.promised(kept.points, policy.monitor)
        replays.append(past.replay(name, kept, past.would_fire(limits), policy, hold_s, promised=promised))
    _print_backtest(replays, cost_s, source)
    picture.parent.mkdir(parents=True, exist_ok=True)
    past.picture(kept.points, replays, log_limits).savefig(picture, dpi=120)
    out.print(f"picture → {escape(str(picture))}")


def gate(
    package: Annotated[Path, typer.Option(help="the candidate, as packaged")] = Path("artifacts/package"),
    split: Annotated[Path, typer.Option(help="today's test rows")] = Path("artifacts/split"),
    feedback: Annotated[Path, typer.Option(help="accepted labels")] = Path("data/feedback"),
) -> None:
    """Hold the packaged model against the champion on today's test rows; nothing is published. Exit code 4: refused."""
    from monitoring.retrain.gate.candidate import gate as judge
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.release.manifest import model_name, repository
    from serving.release.publish import champion

    home, there = find_home(), champion(find_home())
    against = repository(home) / model_name(there.version) if there else None
    out.print(f"the packaged model against {f'version {there.version}' if there else 'no champion: floors alone'} …")
    verdict = judge(package, against, split=split, feedback=feedback, params=load_params(), home=home)
    for reason in verdict.reasons:
        out.print(f"  [{'green' if verdict.passed else 'red'}]·[/] {escape(reason)}")
    if not verdict.passed:
        raise RefusedError(
            str(package), "the gate refused it", "the champion serves on; docs/gate.md says what each reason means"
        )
    out.print("[green]✓[/] passed; next: .venv/bin/evergreen publish")


def _print_served(at: "Stores") -> None:
    import sqlalchemy as sa

    from monitoring.retrain.history.stores import lineage_of
    from serving.release.release_table import UNIQUE_ROLES
    from state.tables import releases, routing

    there = {row["role"]: row for row in at.rows(sa.select(releases), releases) if row["role"] in UNIQUE_ROLES}
    shares = next(iter(at.rows(sa.select(routing), routing)), {})
    if "champion" not in there:
        out.print("champion: none yet")
    for role in UNIQUE_ROLES:
        if role not in there:
            continue
        version = there[role]["version"]
        lineage, _ = lineage_of(version, at.home)
        parent = f", after version {lineage['parent_version']}" if lineage.get("parent_version") else ""
        out.print(f"{role}: version {version}, published {there[role]['published_at']:%Y-%m-%d %H:%M} UTC{parent}")
    if shares.get("challenger_weight") or shares.get("shadow_share"):
        units, copies = shares["challenger_weight"], shares["shadow_share"]
        out.print(f"  the challenger answers {units:.0%} of units, and gets {copies:.0%} of texts copied")


def _print_running(at: "Stores", params: "Params") -> None:
    import sqlalchemy as sa

    from monitoring.retrain.history.stores import moment
    from state.tables import jobs, retrains

    parts = {
        "gateway": (params.gateway.host, params.gateway.port),
        "Triton": (params.serve.host, params.serve.http_port),
        "monitor": (params.alerts.host, params.alerts.monitor_port),
        "Prometheus": (params.alerts.host, params.alerts.prometheus_port),
        "Alertmanager": (params.alerts.host, params.alerts.alertmanager_port),
        "inbox": (params.alerts.host, params.alerts.inbox_port),
        "receiver": (params.alerts.host, params.alerts.receiver_port),
        "controller": (params.alerts.host, params.alerts.controller_port),
    }
    up = {name: _answers(*address) for name, address in parts.items()}
    out.print("runs: " + "  ".join(f"{'[green]✓[/]' if is_up else '[dim]–[/]'} {name}" for name, is_up in up.items()))
    counted = (
        sa.select(jobs.c.status, sa.func.count().label("many"))
        .where(jobs.c.status.in_(("queued", "running")))
        .group_by(jobs.c.status)
    )
    if waiting := at.rows(counted, jobs):
        out.print("jobs: " + ", ".join(f"{row['many']} {row['status']}" for row in waiting))
    for row in at.rows(sa.select(retrains).where(retrains.c.state == "running"), retrains):
        owner = escape(row["owner"] or "nobody yet")
        out.print(
            f"retrain {row['id']}: at {row['step']} since {moment(row['began_wall'])}, by {owner} {escape(row['progress'])}"
        )


def _print_decisions(at: "Stores") -> None:
    import sqlalchemy as sa

    from monitoring.retrain.history.stores import moment
    from state.tables import decisions, retrains

    last = at.rows(sa.select(decisions).order_by(decisions.c.id.desc()).limit(DECISIONS_SHOWN), decisions)
    if not last:
        return
    made = {row["id"]: row for row in at.rows(sa.select(retrains), retrains)}
    table = Table("when", "alert", "decision", "what came of it", title="last decisions", title_justify="left")
    for row in last:
        retrain = made.get(row["retrain_id"], {})
        outcome = f"version {retrain['version_out']}" if retrain.get("version_out") else retrain.get("state", "")
        alert = f"{row['alertname']}, version {row['version'] or 'none'}"
        table.add_row(moment(row["at"]), escape(alert), escape(f"{row['verdict']}: {row['reason']}"), outcome)
    out.print(table)


def _print_backtest(replays: Sequence["Replay"], cost_s: float, source: str) -> None:
    from monitoring.retrain.history.backtest import STREAM
    from monitoring.retrain.history.stores import moment

    table = Table(
        "policy", "promised", "stream alerts", "window alerts", "first", "retrains", "compute", "joined", "refused", "waiting"
    )  # fmt: skip
    for one in replays:
        streams = sum(made.alert.alertname == STREAM for made in one.decided)
        table.add_row(
            escape(one.name), "" if one.promised is None else f"{one.promised:.2g} false", str(streams),
            str(len(one.decided) - streams), moment(one.decided[0].alert.began_at) if one.decided else "never",
            f"at most {len(one.ran)}", f"{len(one.ran) * cost_s / 3600:.2f} h",
            *(_reasons(one, outcome) for outcome in ("joined", "refused", "waiting")),
        )  # fmt: skip
    out.print(table)
    out.print(
        f"a retrain is counted as {cost_s:.0f} s ({source}); decided as the controller does, had nobody committed meanwhile"
    )
    for one in replays:
        for made in one.decided[:DECISIONS_SHOWN]:
            alert = made.alert
            what = f"{alert.alertname} {alert.signal}, version {alert.version}: {made.outcome} ({made.reason})"
            out.print(f"  [dim]{escape(one.name)}[/] {moment(made.at)}  {escape(what)}")
        if len(one.decided) > DECISIONS_SHOWN:
            out.print(f"  [dim]{escape(one.name)}[/] … and {len(one.decided) - DECISIONS_SHOWN} more")


def _reasons(one: "Replay", outcome: str) -> str:
    """How many, by reason: `cooldown 3, over 1`."""
    counted = Counter(made.reason for made in one.decided if made.outcome == outcome)
    return ", ".join(f"{reason} {count}" for reason, count in counted.most_common()) or "0"


def _retrain_s(given: float | None, measured: float | None) -> tuple[float, str]:
    """Seconds of a retrain, and where they come from."""
    if given is not None:
        return given, "as given"
    if measured is not None:
        return measured, "median of the journal"
    if TRAINING.is_file():
        return float(
            json.loads(TRAINING.read_text(encoding="utf-8"))["seconds"]
        ), "the last training here, other stages not counted"
    raise InputError("--retrain-s", "no retrain and no training has been measured here", "give its seconds: --retrain-s 300")


def _scores(metrics: dict[str, dict[str, float]]) -> Table:
    table = Table(
        "on the test rows", "accuracy", "macro-F1", title="the last model made here, beside its control", title_justify="left"
    )
    for name, row in (("fine-tuned", metrics["test"]), ("frozen encoder + logistic regression", metrics["control"])):
        table.add_row(name, f"{row['accuracy']:.4f}", f"{row['f1_macro']:.4f}")
    return table


def _answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), timeout=PROBE_S).close()
    except OSError:
        return False
    return True
