"""`make bench-drift`: rows D1 to D6 of the watching goals, on embedded texts of three corpora; controls in the same run.

False alarms are counted over whole streams, every run with a reference and a stream of its own; power is that of one window. The
controls are other people's tools with their defaults, in an environment of their own (.peers), dummies that always or never
fire, and for delays the oracle, which knows both error rates. Figures of detectors hang on seeds, not on the machine's speed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.records import write_json
from pipeline.errors import InputError, ToolError, run_stage
from pipeline.output.terminal import Terminal, styled
from pipeline.params import Params, load_params
from tests.bench import drift_errors, drift_peers_input, drift_pictures, drift_quality, drift_windows
from tests.bench.drift_errors import Delays
from tests.bench.drift_quality import Guess
from tests.bench.drift_windows import Cost, Power, Quiet
from tests.bench.drift_worlds import make_worlds
from tests.bench.report import Bar, Row, paired_ratio, table, write

DATA, PEERS, CACHE = Path("../shared/data"), Path(".peers/bin/python"), Path("reports/bench/embedded")
OURS, ORACLES = "e-detector (ours)", ("oracle, Shiryaev-Roberts", "oracle, CUSUM")
HONEST = 0.1  # a control that alarms more often than this where nothing changed is no control of power
BARS = {
    "D1": Bar("value", at_most=0.0), "D2a": Bar("value", at_least=0.5), "D2b": Bar("value", at_least=0.95),
    "D3": Bar("ratio", at_least=1 / 1.2), "D4": Bar("value", at_most=50), "D5": Bar("value", at_most=0.3),
    "D6": Bar("value", at_most=3),
}  # fmt: skip
IMPORTS = "monitoring.detectors, pipeline.reference_profile"


class Size(NamedTuple):
    """How much is run."""

    quiet: int  # streams without drift a setting
    power: int  # windows a point
    streams: int  # of errors
    simulated: int
    peers: int  # windows, and streams, that the slow controls see
    quality: int
    pairs: int


class Found(NamedTuple):
    """Everything that was measured."""

    quiet: list[Quiet]
    power: list[Power]
    delays: list[Delays]
    cost: Cost
    guesses: list[Guess]
    imports: list[float]
    packages: list[str]
    peers: dict[str, Any]


FULL, QUICK = Size(200, 200, 4000, 20_000, 20, 60, 7), Size(10, 10, 100, 500, 2, 3, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with banking77/ and nlupp/")
    parser.add_argument("--peers", type=Path, default=PEERS, help="the Python that has the controls")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where embedded texts are kept")
    parser.add_argument("--quick", action="store_true", help="few runs, for trying out: figures are worth nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    if not (args.data / "banking77" / "train.csv").is_file():
        raise InputError(str(args.data), "banking77 and nlupp are not there", "name their folder: --data")
    console = Terminal(soft_wrap=True, width=180)
    found = measure(load_params(), args.data, args.cache, args.peers, QUICK if args.quick else FULL, args.seed, console)
    rows = to_rows(found)
    path = write(rows, args.out, "drift")
    write_json(args.out / "drift-readings.json", readings(found))
    console.print(table(rows, BARS, "watching: goals D1 to D6"))
    drift_pictures.draw(found.quiet, found.power, found.delays, found.guesses, args.out / "drift.png")
    console.print(f"→ {path}, {args.out / 'drift-readings.json'}, {args.out / 'drift.png'}")


def measure(params: Params, data: Path, cache: Path, python: Path, size: Size, seed: int, console: Terminal) -> Found:
    """One part after the other on one core, the controls on another."""
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(styled(f"{time.monotonic() - begun:6.0f} s", "dim"), "", what)

    say("embedding texts, or reading them from the cache")
    worlds = make_worlds(data, params, cache)
    bank = worlds["banking77"]
    say("D5 imports, D4 cost of a check")
    imports, packages = import_cost(size.pairs)
    cost = drift_windows.cost(bank, size.pairs, params.monitor, seed)
    say("D3 delays")
    delays = drift_errors.ours_and_oracles(size.streams, size.simulated, seed)
    say("controls begin in their own environment, on the other core")
    with peers(python, drift_peers_input.arrays(bank, size.peers, seed), console) as answer:
        say("D2 power")
        power = [
            one
            for name in ("hotels", "support desk")
            for one in drift_windows.power(bank, name, size.power, params.monitor, seed)
        ]
        say("D6 accuracy without labels")
        guesses = drift_quality.guesses(worlds, size.quality, params.monitor, seed)
        quiet: list[Quiet] = []
        for world in worlds.values():
            say(f"D1 streams without drift: {world.name}")
            quiet += drift_windows.quiet_streams(world, size.quiet, params.monitor, seed)
        say("waiting for the controls")
        told = answer()
    for name, firsts in told.get("streams", {}).items():
        delays.append(drift_errors.summed(name, np.array(firsts["null"]), np.array(firsts["changed"])))
    say("done")
    return Found(quiet, power, delays, cost, guesses, imports, packages, told)


def import_cost(runs: int) -> tuple[list[float], list[str]]:
    """Seconds to import detectors and profile in a fresh interpreter, and the packages of others that are then loaded."""
    code = (
        f"import sys, time; t = time.perf_counter(); import {IMPORTS}; s = time.perf_counter() - t"
        "; from importlib import metadata; tops = {name.split('.')[0] for name in sys.modules}"
        "; owners = metadata.packages_distributions();"
        " print(s, *sorted({own for top in tops for own in owners.get(top, []) if own != 'evergreen'}))"
    )
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(runs)]
    return [float(one.split()[0]) for one in done], done[-1].split()[1:]


@contextmanager
def peers(python: Path, arrays: dict[str, Any], console: Terminal) -> Iterator[Callable[[], dict[str, Any]]]:
    """The controls at work on the other core; the call waits for what they say. Nothing where they are not installed."""
    if not python.exists():
        console.print(styled(f"no controls: {python} is not there", "yellow"), "(requirements-peers.lock says what it needs)")
        yield dict
        return
    with tempfile.TemporaryDirectory(prefix="evergreen-drift-") as scratch:
        given, told, errors = (Path(scratch) / name for name in ("in.npz", "out.json", "errors"))
        np.savez(given, **arrays)
        script = Path(__file__).with_name("drift_peers.py").resolve()
        with errors.open("w", encoding="utf-8") as log:
            process = subprocess.Popen([str(python.absolute()), str(script), str(given), str(told)], stderr=log, cwd=scratch)

        def answer() -> dict[str, Any]:
            if process.wait():
                words = errors.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ToolError(str(python), f"the controls failed:\n{words}", "install requirements-peers.lock there")
            found: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
            return found

        try:
            yield answer
        finally:
            process.kill()
            process.wait()


def to_rows(found: Found) -> list[Row]:
    """A row a goal; D2 by kind of foreign text, D6 by kind of shift."""
    return [_false_alarms(found), *_powers(found), _delay(found), *_costs(found), *_accuracies(found)]


def _false_alarms(found: Found) -> Row:
    """The setting that stands worst against its bound, beside Evidently's worst method."""
    count = len(found.quiet)
    excess, worst = max(((one.rate - one.bound(count), one) for one in found.quiet), key=lambda pair: pair[0])
    what = (
        f"worst of {count} settings: {worst.world}, windows of {worst.window}, alpha {worst.alpha}: {worst.rate:.3f} of streams"
    )
    methods = {name: own for name, own in found.peers.get("windows", {}).items() if name.startswith("Evidently")}
    rates = {f"{name}, {kind} texts": own[f"0-{kind}"]["rate"] for name, own in methods.items() for kind in drift_windows.WINDOWS}
    control = max(rates, key=lambda name: rates[name], default="")
    bound = worst.bound(count)
    return Row("D1", what, excess, "excess", control, rates[control] - bound if control else None, None, worst.runs)


def _powers(found: Found) -> list[Row]:
    """At a tenth foreign; the best control among those that are quiet where nothing changed."""
    rows = []
    for one in found.power:
        if one.share != drift_peers_input.CONTAMINATION:
            continue
        still = next(p.jointly for p in found.power if (p.foreign, p.window, p.share) == (one.foreign, one.window, 0.0))
        own = {
            name: kinds[f"{one.foreign}-{one.window}"]["rate"]
            for name, kinds in found.peers.get("windows", {}).items()
            if kinds[f"0-{one.window}"]["rate"] <= HONEST
        }
        best = max(own, key=lambda name: own[name], default="")
        goal = "D2a" if one.window == min(drift_windows.WINDOWS) else "D2b"
        others = f"e-detectors {one.stream:.2f}, BBSD {one.alone['prediction_softmax']:.2f}"
        what = f"10 % {one.foreign}, {one.window} texts, {still:.3f} false; {others}"
        rows.append(Row(goal, what, one.jointly, "power", best, own.get(best), None, one.runs))
    return rows


def _delay(found: Found) -> Row:
    ours = next(one for one in found.delays if one.name == OURS)
    oracle = min((one for one in found.delays if one.name in ORACLES), key=lambda one: one.median)
    low, median, high = _ratio_of_medians(oracle.delays, ours.delays)
    what = f"errors .10 → .15: median delay, {ours.false_alarms:.3f} false in 10,000, {ours.missed:.3f} missed"
    ratio = paired_ratio([oracle.median], [ours.median])._replace(median=median, low=low, high=high)
    return Row("D3", what, ours.median, "items", oracle.name, oracle.median, ratio, len(ours.delays))


def _ratio_of_medians(better: list[int], worse: list[int]) -> tuple[float, float, float]:
    """Low, middle and high of median(better) / median(worse) over resampled streams."""
    rng = np.random.default_rng(17)
    medians = [np.median(rng.choice(own, (1000, len(own))), axis=1) for own in (better, worse)]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(low), float(np.median(better) / np.median(worse)), float(high)


def _costs(found: Found) -> list[Row]:
    seconds = {name: kinds["0-1000"]["seconds"] for name, kinds in found.peers.get("windows", {}).items() if "fires" not in name}
    slow = "Evidently mmd" if seconds else ""
    pairs = len(found.cost.check_ms)
    ratio = paired_ratio([1000 * seconds[slow]] * pairs, found.cost.check_ms) if slow else None
    kept = found.cost.bytes_by_reference
    sizes = (
        f"{min(kept.values()) / 1e3:.0f} to {max(kept.values()) / 1e3:.0f} kB kept for {min(kept)} to {max(kept)} reference rows"
    )
    check, update = float(np.median(found.cost.check_ms)), float(np.median(found.cost.update_us))
    import_s = float(np.median(found.imports))
    evidently = found.peers.get("import_s")
    imports = paired_ratio([evidently] * len(found.imports), found.imports) if evidently else None
    what = f"import {IMPORTS}: {len(found.packages)} packages of others ({', '.join(found.packages)})"
    return [
        Row(
            "D4",
            f"check of 1,000 texts, 77 classes; {sizes}",
            check,
            "ms",
            slow,
            1000 * seconds[slow] if slow else None,
            ratio,
            pairs,
        ),
        Row("D4", "update by one row, all signals", update, "µs", "", None, None, pairs),
        Row("D5", what, import_s, "s", "import evidently" if evidently else "", evidently, imports, len(found.imports)),
    ]


def _accuracies(found: Found) -> list[Row]:
    return [
        Row(
            "D6",
            f"{one.kind}: true {100 * one.truth:.1f} %, bias {one.bias['ours']:+.1f}, bounds hold in {one.covered:.0%}, "
            f"{one.width:.0f} points wide; ATC {one.error['ATC']:.1f}, DoC {one.error['DoC']:.1f}",
            one.error["ours"],
            "points",
            "CBPE",
            one.error["CBPE"],
            None,
            one.windows,
        )
        for one in found.guesses
    ]


def readings(found: Found) -> dict[str, Any]:
    """All that the rows and pictures were made of; delays as quantiles."""
    quantiles = (10, 25, 50, 75, 90, 99)
    return {
        "quiet": [one._asdict() | {"bound": one.bound(len(found.quiet))} for one in found.quiet],
        "power": [one._asdict() for one in found.power],
        "delays": [
            one._asdict() | {"delays": dict(zip(map(str, quantiles), np.percentile(one.delays, quantiles).tolist(), strict=True))}
            for one in found.delays
        ],
        "cost": found.cost._asdict(),
        "guesses": [one._asdict() for one in found.guesses],
        "imports": found.imports,
        "peers": {name: own for name, own in found.peers.items() if name != "streams"},
    }


if __name__ == "__main__":
    run_stage(main)
