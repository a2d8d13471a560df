"""`make drill`: faults injected on purpose into a real stack, and a verdict on every promise.

A drill is an entry of `DRILLS`. Each leaves `reports/drill/<name>.json` and a picture beside it; the exit code is 1 when a
promise was broken.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import NamedTuple

from monitoring.local.watch import TOOLS
from pipeline.errors import InputError, run_stage
from pipeline.output.terminal import Terminal, styled
from pipeline.params import Params, load_params
from serving.loadtest import read_texts
from serving.processes.supervisor import STABLE_S
from tests.bench.children import clear_settings
from tests.bench.meter import Meter, Pace
from tests.conftest import copy_project, make_small
from tests.faults import alerts, intruder, kill_points, killed, overload, poison, retrain, swaps, watch
from tests.faults.intruder_environment import alert_services, with_alert_ports, with_tokens
from tests.faults.retrain_environment import STAGES
from tests.faults.running_stack import DrillSettings, running_stack
from tests.faults.scorecard import Outcome, table, write
from tests.faults.timeline import DrillTimeline
from tests.faults.watch_faults import ALL

PACKAGE, LOCK, TEXTS = Path("artifacts/package"), Path("dvc.lock"), Path("data/support_desk.jsonl")
PACE = Pace(1.0, 3.0, 300, 1.2)  # of the search for the capacity
IN_PEACE = ("Prometheus stopped", "monitor killed", "Alertmanager killed", "Prometheus killed")
Run = Callable[[DrillSettings, argparse.Namespace], tuple[Outcome, DrillTimeline]]


class Drill(NamedTuple):
    """One kind of fault."""

    what: str
    run: Run
    needs: tuple[Path, ...] = (PACKAGE, LOCK)


def _swaps(setting: DrillSettings, asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    with running_stack(setting, "swaps") as running:
        return swaps.run(running, swaps.Amount(asked.swaps, quiet_s=15.0, stretch_s=30.0))


def _overload(setting: DrillSettings, asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    with running_stack(setting, "overload") as running:
        return overload.run(running, overload.Amount(normal_s=30.0, overload_s=asked.overload_s, times=3.0))


def _killed(setting: DrillSettings, asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    kills = [*["triton"] * asked.kills, "gateway", "model"]
    with running_stack(setting, "killed") as running:
        return killed.run(running, killed.Amount(kills, quiet_s=asked.quiet_s, stretch_s=30.0))


def _watch(setting: DrillSettings, asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    """Serves nothing: an invented world answers."""
    amount = watch.Amount(IN_PEACE, ALL, watch.PACE, rows_per_s=20.0, quiet_s=asked.pause_s, is_ended=True)
    return watch.run(setting, amount)


def _alerts(setting: DrillSettings, asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    amount = alerts.Amount(asked.webhooks, asked.callers, kills=3, told=20)
    return alerts.run(setting.scratch / "alerts", setting.params, TOOLS.absolute(), amount, setting.meter.say)


def _retrain(setting: DrillSettings, asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    setting.meter.say("a small model is made first, by a real dvc repro")
    folder = setting.scratch / "retrain"
    folder.mkdir()
    project = copy_project(folder)
    make_small(project)
    amount = retrain.Amount(
        list(kill_points.POINTS), list(STAGES), is_mlflow_away=True, is_database_locked=True, is_disk_full=True
    )
    return retrain.run(project, amount, setting.meter.say)


def _intruder(setting: DrillSettings, asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    limited = setting.params.gateway.model_copy(update={"rate_limit_per_s": 2 * asked.normal_per_s})
    params = with_alert_ports(setting.params.model_copy(update={"gateway": limited}))
    setting = setting._replace(params=params, capacity_per_s=asked.normal_per_s)
    amount = intruder.Amount(
        normal_per_s=asked.normal_per_s,
        connections=1100,
        heads_mib=100,
        floods=16,
        labels=20,
        replays=20,
        requests=2000,
        rounds=4,
        is_slow=True,
        stretch_s=5.0,
    )
    with running_stack(setting, "intruder") as running, alert_services(with_tokens(running.installation)) as (targets, services):
        return intruder.run(running, targets, services, amount)


def _poison(setting: DrillSettings, _asked: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    folder = setting.scratch / "poison"
    folder.mkdir()
    return poison.run(copy_project(folder), poison.ATTACKS, setting.meter.say)


DRILLS = {
    "swaps": Drill("versions swapped again and again", _swaps),
    "overload": Drill("three times what it can take, then normal", _overload),
    "killed": Drill("Triton, the gateway and a model's process killed", _killed),
    "intruder": Drill("floods, slow requests, forged labels and webhooks, foreign clients", _intruder),
    "watch": Drill("monitor, Prometheus, Alertmanager and inbox stopped and killed, in peace and while drift stands", _watch, ()),
    "alerts": Drill("webhooks by the ten thousand, the receiver and Alertmanagers killed", _alerts, ()),
    "retrain": Drill(
        "a retrain's controller and dvc repro killed everywhere; MLflow, database and disk taken away", _retrain, ()
    ),
    "poison": Drill("wrong labels, swapped classes and a planted trigger, by one labeller and by a colluding third", _poison, ()),
}


def main() -> None:
    asked = arguments().parse_args()
    for path in {path for name in asked.names or DRILLS for path in DRILLS[name].needs}:
        if not path.exists():
            raise InputError(str(path), "there is no such thing yet", "run first: make repro")
    for number in (signal.SIGINT, signal.SIGTERM):  # also where it runs in the background, with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    clear_settings()
    sys.exit(play(asked, load_params(), Terminal(soft_wrap=True, width=160)))


def play(asked: argparse.Namespace, params: Params, console: Terminal) -> int:
    """The drills that were asked for, one after the other; the exit code."""
    texts = read_texts(asked.texts, params.data)
    broken = []
    with tempfile.TemporaryDirectory(prefix="evergreen-drill-") as scratch:
        for name in asked.names or DRILLS:
            meter = Meter(console, PACE, limit_s=inf, seed=0)
            setting = DrillSettings(PACKAGE, LOCK, params, texts, Path(scratch), console, meter, asked.capacity)
            try:
                outcome, timeline = DRILLS[name].run(setting, asked)
            except KeyboardInterrupt:
                console.print(styled("stopped; all that was started has ended", "yellow"))
                return 130
            report(outcome, timeline, asked.out, console)
            broken += [name] * (not outcome.is_kept)
    if broken:
        console.print(styled(f"promises were broken: {', '.join(broken)}", "bold red"))
    return 1 if broken else 0


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    listed = "; ".join(f"{name}: {drill.what}" for name, drill in DRILLS.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *DRILLS], metavar="drill", help=f"by default all: {listed}")
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--overload-s", type=float, default=300.0, help="of the overload; buffers fill in the first 120")
    parser.add_argument("--kills", type=int, default=5, help="of Triton; the gateway and a model's process are killed once")
    parser.add_argument("--quiet-s", type=float, default=STABLE_S + 5, help="of peace between kills")
    parser.add_argument("--pause-s", type=float, default=5.0, help="between faults of the watching")
    parser.add_argument("--webhooks", type=int, default=10_000, help="of each kind")
    parser.add_argument("--callers", type=int, default=50, help="of the receiver, at once")
    parser.add_argument(
        "--normal-per-s", type=float, default=15.0, help="requests of the caller whom an intruder must not disturb"
    )
    parser.add_argument("--capacity", type=float, help="requests/s at P99 ≤ 50 ms; by default measured")
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--out", type=Path, default=Path("reports/drill"))
    return parser


def report(outcome: Outcome, timeline: DrillTimeline, out: Path, console: Terminal) -> None:
    """Scorecard, JSON and picture."""
    console.print(table(outcome))
    for note in outcome.notes:
        console.print_lines(f"  {note}")
    path, picture = write(outcome, timeline.rows(), out), out / f"{outcome.name}.png"
    timeline.draw(picture)
    console.print(f"→ {path}, {picture}")


if __name__ == "__main__":
    run_stage(main)
