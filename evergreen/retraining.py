"""The commands `retrain` (a retrain now, or the end of one) and `backtest` (what other settings would have retrained)."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evergreen.inspection import DECISIONS_SHOWN, out
from evergreen.releasing import announce
from pipeline.errors import EvergreenError, InputError, RefusedError, ToolError
from pipeline.lifetime import end_on_signals
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from monitoring.retrain.history.backtest import PolicyReplay
    from monitoring.retrain.request import RequestStatus

INTERRUPTED = 128 + signal.SIGINT
TRAINING = Path("artifacts/training/metrics.json")


def retrain(
    cancel: Annotated[bool, typer.Option("--cancel", help="end the running retrain; the champion stays")] = False,
    why: Annotated[str, typer.Option(help="the reason, which the journal keeps")] = "a person asked for it",
) -> None:
    """Retrain now, from the commit that is checked out and all labels in force; the gate decides whether the result serves."""
    from monitoring.retrain import request
    from pipeline.home import find_home
    from pipeline.params import load_params

    params, home = load_params(), find_home()
    if cancel:
        ended = request.cancel(params, home, "cancelled by a person", announce)
        out.print("no retrain is running" if ended is None else f"retrain {ended} is cancelled; the champion stays")
        return
    print_end(follow(lambda stopping: request.retrain(params, home, why, announce, stopping)))


def follow(carry_out: Callable[[threading.Event], "RequestStatus"]) -> "RequestStatus":
    """Follow a request to its end; the first Ctrl-C leaves it to others, and ends this command with its exit code."""
    from monitoring.retrain.request import describe_rest

    stopping = threading.Event()

    def stop(*_signal: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    signal.signal(signal.SIGINT, stop)
    end_on_signals(stop)
    status = carry_out(stopping)
    if not status.is_final:
        out.print(f"stopped; {describe_rest(status)}")
        raise SystemExit(INTERRUPTED)
    return status


def print_end(status: "RequestStatus") -> None:
    """Print the end of a retrain or release; raise the error that it, or its refusal, is."""
    from monitoring.decisions import OBSTACLES
    from serving.release.inputs import WHAT_TO_DO

    if status.reason == "no_champion":
        raise ToolError("a retrain", "no version is published yet", "make repro")
    if status.reason in ("busy", "is_champion"):
        saying = OBSTACLES[status.reason]
        raise RefusedError("the release", saying.why, saying.command or "nothing is to be done")
    if status.retrain is None:
        what = str(status.facts.get("other_inputs") or status.reason)
        raise RefusedError("a retrain", f"it would not start from what serves: {what}", WHAT_TO_DO)
    row = status.retrain
    name, where = f"retrain {row['id']}", "docs/retraining.md explains it; the champion stays"
    if row["state"] in ("refused", "rolled_back"):
        raise RefusedError(name, f"{row['state'].replace('_', ' ')}: {row['failure']}", where)
    if row["state"] != "done":
        raise EvergreenError(name, f"{row['state']} at step {row['step']}: {row['failure']}", where)
    out.print(styled("✓", "green"), f"{name}: version {row['version_out']} is champion")


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
