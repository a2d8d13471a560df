"""Run `make drill`: inject faults into a real stack, and judge every promise.

A drill is an entry of `DRILLS`. Each writes `reports/drill/<name>.json` and a picture beside it. The exit code is 1 when a
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
from pipeline.home import DVC_LOCK, PACKAGE
from pipeline.output.terminal import Terminal, styled
from pipeline.params import Params, load_params
from serving.loadtest import read_texts
from serving.processes.supervisor import STABLE_S
from tests.bench.children import clear_settings
from tests.bench.meter import Meter, Pace
from tests.conftest import copy_project, make_small
from tests.faults.intrusion import intruder, poison
from tests.faults.intrusion.environment import alert_services, with_alert_ports, with_tokens
from tests.faults.retraining import kill_points, retrain
from tests.faults.retraining.environment import STAGES
from tests.faults.running_stack import DrillSettings, running_stack
from tests.faults.scorecard import Outcome, table, write
from tests.faults.serving import killed, overload, swaps
from tests.faults.timeline import DrillTimeline
from tests.faults.watching import alerts, watch
from tests.faults.watching.watch_faults import ALL
from tests.faults.zoo import drill as zoo

TEXTS = Path("data/support_desk.jsonl")
PACE = Pace(1.0, 3.0, 300, 1.2)  # for the search of the capacity
IN_PEACE = ("Prometheus stopped", "monitor killed", "Alertmanager killed", "Prometheus killed")
Run = Callable[[DrillSettings, argparse.Namespace], tuple[Outcome, DrillTimeline]]


class Drill(NamedTuple):
    """Describe one kind of fault."""

    what: str
    run: Run
    needs: tuple[Path, ...] = (PACKAGE, DVC_LOCK)


def _swaps(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    with running_stack(setting, "swaps") as running:
        return swaps.run(running, swaps.Amount(options.swaps, quiet_s=15.0, stretch_s=30.0))


def _overload(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    with running_stack(setting, "overload") as running:
        return overload.run(running, overload.Amount(normal_s=30.0, overload_s=options.overload_s, times=3.0))


def _killed(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    kills = [*["triton"] * options.kills, "gateway", "model"]
    with running_stack(setting, "killed") as running:
        return killed.run(running, killed.Amount(kills, quiet_s=options.quiet_s, stretch_s=30.0))


def _watch(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    """Run without a server: simulated answers are written to the prediction log."""
    amount = watch.Amount(IN_PEACE, ALL, watch.PACE, rows_per_s=20.0, quiet_s=options.pause_s, is_ended=True)
    return watch.run(setting, amount)


def _alerts(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    amount = alerts.Amount(options.webhooks, options.callers, kills=3, shared_alerts=20)
    return alerts.run(setting.scratch / "alerts", setting.params, TOOLS.absolute(), amount, setting.meter.report)


def _retrain(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    setting.meter.report("making a small model with a real dvc repro")
    folder = setting.scratch / "retrain"
    folder.mkdir()
    project = copy_project(folder)
    make_small(project)
    amount = retrain.Amount(
        list(kill_points.POINTS), list(STAGES), is_mlflow_stopped=True, is_database_locked=True, is_disk_full=True
    )
    return retrain.run(project, amount, setting.meter.report)


def _intruder(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    limited = setting.params.gateway.model_copy(update={"rate_limit_per_s": 2 * options.normal_per_s})
    params = with_alert_ports(setting.params.model_copy(update={"gateway": limited}))
    setting = setting._replace(params=params, capacity_per_s=options.normal_per_s)
    amount = intruder.Amount(
        normal_per_s=options.normal_per_s,
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


def _poison(setting: DrillSettings, _options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    folder = setting.scratch / "poison"
    folder.mkdir()
    return poison.run(copy_project(folder), poison.ATTACKS, setting.meter.report)


def _zoo(setting: DrillSettings, options: argparse.Namespace) -> tuple[Outcome, DrillTimeline]:
    scratch = setting.scratch / "zoo"
    return zoo.run(
        setting.package.parent, setting.dvc_lock, setting.params, scratch, setting.meter.report,
        texts=options.zoo_texts, names=options.mutants,
    )  # fmt: skip


DRILLS = {
    "swaps": Drill("versions swapped repeatedly", _swaps),
    "overload": Drill("three times what it can take, then normal", _overload),
    "killed": Drill("Triton, the gateway and a model's process killed", _killed),
    "intruder": Drill("floods, slow requests, forged labels and webhooks, foreign clients", _intruder),
    "watch": Drill("monitor, Prometheus, Alertmanager and inbox stopped and killed, in peace and while drift stands", _watch, ()),
    "alerts": Drill("webhooks by the ten thousand, the receiver and Alertmanagers killed", _alerts, ()),
    "retrain": Drill(
        "a retrain's controller and dvc repro killed everywhere; MLflow, database and disk taken away", _retrain, ()
    ),
    "zoo": Drill("bad models released by the rules of real releases; good ones too", _zoo),
    "poison": Drill("wrong labels, swapped classes and a planted trigger, by one labeller and by a colluding third", _poison, ()),
}


def main() -> None:
    options = arguments().parse_args()
    for path in {path for name in options.names or DRILLS for path in DRILLS[name].needs}:
        if not path.exists():
            raise InputError(str(path), "it does not exist", "run first: make repro")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    clear_settings()
    sys.exit(run_drills(options, load_params(), Terminal(soft_wrap=True, width=160)))


def run_drills(options: argparse.Namespace, params: Params, console: Terminal) -> int:
    """Run the chosen drills in turn; return the exit code."""
    texts = read_texts(options.texts, params.data)
    broken = []
    with tempfile.TemporaryDirectory(prefix="evergreen-drill-") as scratch:
        for name in options.names or DRILLS:
            meter = Meter(console, PACE, limit_s=inf, seed=0)
            setting = DrillSettings(PACKAGE, DVC_LOCK, params, texts, Path(scratch), console, meter, options.capacity)
            try:
                outcome, timeline = DRILLS[name].run(setting, options)
            except KeyboardInterrupt:
                console.print(styled("stopped; every started process has ended", "yellow"))
                return 130
            report(outcome, timeline, options.out, console)
            broken += [name] * (not outcome.is_kept)
    if broken:
        console.print(styled(f"promises were broken: {', '.join(broken)}", "bold red"))
    return 1 if broken else 0


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    descriptions = "; ".join(f"{name}: {drill.what}" for name, drill in DRILLS.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *DRILLS], metavar="drill", help=f"by default all: {descriptions}")
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--overload-s", type=float, default=300.0, help="length of the overload; buffers fill in the first 120")
    parser.add_argument("--kills", type=int, default=5, help="kills of Triton; the gateway and a model's process are killed once")
    parser.add_argument("--quiet-s", type=float, default=STABLE_S + 5, help="pause between kills")
    parser.add_argument("--pause-s", type=float, default=5.0, help="pause between faults of drill watch")
    parser.add_argument("--webhooks", type=int, default=10_000, help="webhooks of each kind")
    parser.add_argument("--callers", type=int, default=50, help="concurrent callers of the receiver")
    parser.add_argument("--normal-per-s", type=float, default=15.0, help="requests of the normal caller during drill intruder")
    parser.add_argument("--capacity", type=float, help="requests/s at P99 ≤ 50 ms; by default measured")
    parser.add_argument("--mutants", nargs="*", default=[], help="animals of drill zoo, by default all")
    parser.add_argument("--zoo-texts", type=int, default=5000, help="live texts for each animal")
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--out", type=Path, default=Path("reports/drill"))
    return parser


def report(outcome: Outcome, timeline: DrillTimeline, out: Path, console: Terminal) -> None:
    """Print the scorecard; write the JSON report and the picture."""
    console.print(table(outcome))
    for note in outcome.notes:
        console.print_lines(f"  {note}")
    path, picture = write(outcome, timeline.rows(), out), out / f"{outcome.name}.png"
    timeline.draw(picture)
    console.print(f"→ {path}, {picture}")


if __name__ == "__main__":
    run_stage(main)
