"""Run `make bench-drift`: goals D1 to D6 of drift detection, on embedded texts of three corpora, with controls in the same run.

False alarms are counted over whole streams, each run with a new reference and stream; power is measured in one window. Controls
are other tools with their defaults, in a separate environment (.peers), detectors that always or never fire, and for delays the
oracle, which knows both error rates. The figures depend on seeds, not on the machine's speed.
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
from tests.bench.drift import errors, peers_input, pictures, quality, windows
from tests.bench.drift.errors import Delays
from tests.bench.drift.quality import Guess
from tests.bench.drift.windows import Cost, Power, Quiet
from tests.bench.drift.worlds import make_worlds
from tests.bench.report import Bar, Row, paired_ratio, table, write

DATA, PEERS, CACHE = Path("../shared/data"), Path(".peers/bin/python"), Path("reports/bench/embedded")
OURS, ORACLES = "e-detector (ours)", ("oracle, Shiryaev-Roberts", "oracle, CUSUM")
MAX_FALSE_ALARMS = 0.1  # a control with more false alarms is not compared in power
BARS = {
    "D1": Bar("value", at_most=0.0), "D2a": Bar("value", at_least=0.5), "D2b": Bar("value", at_least=0.95),
    "D3": Bar("ratio", at_least=1 / 1.2), "D4": Bar("value", at_most=50), "D5": Bar("value", at_most=0.3),
    "D6": Bar("value", at_most=3),
}  # fmt: skip
IMPORTS = "monitoring.detectors, pipeline.reference_profile"


class Size(NamedTuple):
    """Say how much is run."""

    quiet: int  # streams without drift for each setting
    power: int  # windows for each share of foreign texts
    streams: int  # of errors
    simulated: int
    peers: int  # windows and streams given to the slow controls
    quality: int
    pairs: int


class Measurements(NamedTuple):
    """Hold everything that was measured."""

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
    parser = argparse.ArgumentParser(prog="make bench-drift", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with banking77/ and nlupp/")
    parser.add_argument("--peers", type=Path, default=PEERS, help="the Python in which the controls are installed")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder that caches embedded texts")
    parser.add_argument("--quick", action="store_true", help="a few runs to try the bench; the figures mean nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    if not (args.data / "banking77" / "train.csv").is_file():
        raise InputError(str(args.data), "it holds no banking77/train.csv", "name the folder that does: --data")
    console = Terminal(soft_wrap=True, width=180)
    measured = measure(load_params(), args.data, args.cache, args.peers, QUICK if args.quick else FULL, args.seed, console)
    rows = to_rows(measured)
    path = write(rows, args.out, "drift")
    write_json(args.out / "drift-readings.json", readings(measured))
    console.print(table(rows, BARS, "watching: goals D1 to D6"))
    pictures.draw(measured.quiet, measured.power, measured.delays, measured.guesses, args.out / "drift.png")
    console.print(f"→ {path}, {args.out / 'drift-readings.json'}, {args.out / 'drift.png'}")


def measure(params: Params, data: Path, cache: Path, python: Path, size: Size, seed: int, console: Terminal) -> Measurements:
    """Run the parts in turn on one core, and the controls on another."""
    started = time.monotonic()

    def report(step: str) -> None:
        console.print(styled(f"{time.monotonic() - started:6.0f} s", "dim"), "", step)

    report("embedding texts, or reading them from the cache")
    worlds = make_worlds(data, params, cache)
    bank = worlds["banking77"]
    report("D5 imports, D4 cost of a check")
    imports, packages = import_cost(size.pairs)
    cost = windows.cost(bank, size.pairs, params.monitor, seed)
    report("D3 delays")
    delays = errors.ours_and_oracles(size.streams, size.simulated, seed)
    report("controls start in their environment, on the other core")
    with peers(python, peers_input.arrays(bank, size.peers, seed), console) as answer:
        report("D2 power")
        power = [
            point for name in ("hotels", "support desk") for point in windows.power(bank, name, size.power, params.monitor, seed)
        ]
        report("D6 accuracy without labels")
        guesses = quality.guesses(worlds, size.quality, params.monitor, seed)
        quiet: list[Quiet] = []
        for world in worlds.values():
            report(f"D1 streams without drift: {world.name}")
            quiet += windows.quiet_streams(world, size.quiet, params.monitor, seed)
        report("waiting for the controls")
        controls = answer()
    for name, firsts in controls.get("streams", {}).items():
        delays.append(errors.summarise(name, np.array(firsts["null"]), np.array(firsts["changed"])))
    report("done")
    return Measurements(quiet, power, delays, cost, guesses, imports, packages, controls)


def import_cost(runs: int) -> tuple[list[float], list[str]]:
    """Return the seconds to import detectors and profile in a fresh interpreter, and the third-party packages that this loads."""
    code = (
        f"import sys, time; t = time.perf_counter(); import {IMPORTS}; s = time.perf_counter() - t"
        "; from importlib import metadata; tops = {name.split('.')[0] for name in sys.modules}"
        "; owners = metadata.packages_distributions();"
        " print(s, *sorted({owner for top in tops for owner in owners.get(top, []) if owner != 'evergreen'}))"
    )
    command = [sys.executable, "-c", code]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(runs)]
    return [float(words[0]) for words in outputs], outputs[-1][1:]


@contextmanager
def peers(python: Path, arrays: dict[str, Any], console: Terminal) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run the controls on the other core, if they are installed; the yielded call waits for their results."""
    if not python.exists():
        console.print(styled(f"no controls: {python} is missing", "yellow"), "(install requirements-peers.lock there)")
        yield dict
        return
    with tempfile.TemporaryDirectory(prefix="evergreen-drift-") as scratch:
        inputs, results, stderr = (Path(scratch) / name for name in ("in.npz", "out.json", "errors"))
        np.savez(inputs, **arrays)
        script = Path(__file__).with_name("peers.py").resolve()
        with stderr.open("w", encoding="utf-8") as log:
            process = subprocess.Popen([str(python.absolute()), str(script), str(inputs), str(results)], stderr=log, cwd=scratch)

        def answer() -> dict[str, Any]:
            if process.wait():
                log_end = stderr.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ToolError(str(python), f"the controls failed:\n{log_end}", "install requirements-peers.lock there")
            answers: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
            return answers

        try:
            yield answer
        finally:
            process.kill()
            process.wait()


def to_rows(measured: Measurements) -> list[Row]:
    """Return a row for each goal; D2 has one for each kind of foreign text, D6 for each kind of shift."""
    return [_false_alarms(measured), *_powers(measured), _delay(measured), *_costs(measured), *_accuracies(measured)]


def _false_alarms(measured: Measurements) -> Row:
    """Compare the setting that exceeds its bound most with Evidently's worst method."""
    count = len(measured.quiet)
    excess, worst = max(((setting.rate - setting.bound(count), setting) for setting in measured.quiet), key=lambda pair: pair[0])
    what = (
        f"worst of {count} settings: {worst.world}, windows of {worst.window}, alpha {worst.alpha}: {worst.rate:.3f} of streams"
    )
    rates = {
        f"{name}, {window} texts": kinds[f"0-{window}"]["rate"]
        for name, kinds in measured.peers.get("windows", {}).items()
        for window in windows.WINDOWS
        if name.startswith("Evidently")
    }
    control = max(rates, key=lambda name: rates[name], default="")
    bound = worst.bound(count)
    return Row("D1", what, excess, "excess", control, rates[control] - bound if control else None, None, worst.runs)


def _powers(measured: Measurements) -> list[Row]:
    """Compare the power at 10 % foreign texts with the best control that has few enough false alarms."""
    rows = []
    for point in measured.power:
        if point.share != peers_input.CONTAMINATION:
            continue
        quiet = next(p for p in measured.power if (p.foreign, p.window, p.share) == (point.foreign, point.window, 0.0))
        controls = {
            name: kinds[f"{point.foreign}-{point.window}"]["rate"]
            for name, kinds in measured.peers.get("windows", {}).items()
            if kinds[f"0-{point.window}"]["rate"] <= MAX_FALSE_ALARMS
        }
        best = max(controls, key=lambda name: controls[name], default="")
        goal = "D2a" if point.window == min(windows.WINDOWS) else "D2b"
        others = f"e-detectors {point.stream:.2f}, BBSD {point.alone['prediction_softmax']:.2f}"
        what = f"10 % {point.foreign}, {point.window} texts, {quiet.jointly:.3f} false; {others}"
        rows.append(Row(goal, what, point.jointly, "power", best, controls.get(best), None, point.runs))
    return rows


def _delay(measured: Measurements) -> Row:
    ours = next(detector for detector in measured.delays if detector.name == OURS)
    oracle = min((detector for detector in measured.delays if detector.name in ORACLES), key=lambda detector: detector.median)
    low, median, high = _ratio_of_medians(oracle.delays, ours.delays)
    what = f"errors .10 → .15: median delay, {ours.false_alarms:.3f} false in 10,000, {ours.missed:.3f} missed"
    ratio = paired_ratio([oracle.median], [ours.median])._replace(median=median, low=low, high=high)
    return Row("D3", what, ours.median, "items", oracle.name, oracle.median, ratio, len(ours.delays))


def _ratio_of_medians(better: list[int], worse: list[int]) -> tuple[float, float, float]:
    """Return the 2.5 % bound, the middle and the 97.5 % bound of median(better) / median(worse) over resampled streams."""
    rng = np.random.default_rng(17)
    medians = [np.median(rng.choice(delays, (1000, len(delays))), axis=1) for delays in (better, worse)]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(low), float(np.median(better) / np.median(worse)), float(high)


def _costs(measured: Measurements) -> list[Row]:
    methods = measured.peers.get("windows", {})
    seconds = {name: kinds["0-1000"]["seconds"] for name, kinds in methods.items() if "fires" not in name}
    slow = "Evidently mmd" if seconds else ""
    pairs = len(measured.cost.check_ms)
    ratio = paired_ratio([1000 * seconds[slow]] * pairs, measured.cost.check_ms) if slow else None
    sizes = measured.cost.bytes_by_reference
    smallest, largest = min(sizes.values()) / 1e3, max(sizes.values()) / 1e3
    size_range = f"{smallest:.0f} to {largest:.0f} kB kept for {min(sizes)} to {max(sizes)} reference rows"
    check, update = float(np.median(measured.cost.check_ms)), float(np.median(measured.cost.update_us))
    import_s = float(np.median(measured.imports))
    evidently = measured.peers.get("import_s")
    imports = paired_ratio([evidently] * len(measured.imports), measured.imports) if evidently else None
    what = f"import {IMPORTS}: {len(measured.packages)} packages of others ({', '.join(measured.packages)})"
    return [
        Row(
            "D4",
            f"check of 1,000 texts, 77 classes; {size_range}",
            check,
            "ms",
            slow,
            1000 * seconds[slow] if slow else None,
            ratio,
            pairs,
        ),
        Row("D4", "update by one row, all signals", update, "µs", "", None, None, pairs),
        Row("D5", what, import_s, "s", "import evidently" if evidently else "", evidently, imports, len(measured.imports)),
    ]


def _accuracies(measured: Measurements) -> list[Row]:
    return [
        Row(
            "D6",
            f"{guess.kind}: true {100 * guess.truth:.1f} %, bias {guess.bias['ours']:+.1f}, bounds hold in {guess.covered:.0%}, "
            f"{guess.width:.0f} points wide; ATC {guess.error['ATC']:.1f}, DoC {guess.error['DoC']:.1f}",
            guess.error["ours"],
            "points",
            "CBPE",
            guess.error["CBPE"],
            None,
            guess.windows,
        )
        for guess in measured.guesses
    ]


def readings(measured: Measurements) -> dict[str, Any]:
    """Return all that the rows and pictures are made of; delays as quantiles."""
    quantiles = (10, 25, 50, 75, 90, 99)
    return {
        "quiet": [setting._asdict() | {"bound": setting.bound(len(measured.quiet))} for setting in measured.quiet],
        "power": [point._asdict() for point in measured.power],
        "delays": [
            detector._asdict()
            | {"delays": dict(zip(map(str, quantiles), np.percentile(detector.delays, quantiles).tolist(), strict=True))}
            for detector in measured.delays
        ],
        "cost": measured.cost._asdict(),
        "guesses": [guess._asdict() for guess in measured.guesses],
        "imports": measured.imports,
        "peers": {name: part for name, part in measured.peers.items() if name != "streams"},
    }


if __name__ == "__main__":
    run_stage(main)
