"""Run `make bench-release`: goal R1 of gradual releases on Banking77, with other rules for a roll-back in the same run.

Versions lose 0, 1, 2 or 5 points of accuracy, by noise or by whole classes. Every control is calibrated to roll back 5 % of the
equally good ones, and has all labels of both arms; ours has at most `release.labels`. The figures depend on seeds, not on speed.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from monitoring.release.verdicts.planner import SimulatedVerdicts, outcome_shares, simulate_shadow
from pipeline.data.records import write_json
from pipeline.errors import InputError, run_stage
from pipeline.output.terminal import Terminal, styled
from pipeline.params import ReleaseSettings, load_params
from tests.bench.release import pictures
from tests.bench.release.canaries import Ending, play
from tests.bench.release.replay import Played, replay
from tests.bench.release.rows import BARS, GOAL_LOSS, Compared, canary_row, compare, estimate_row, label, to_rows
from tests.bench.release.worlds import Case, Corpus, read_corpus
from tests.bench.report import table, write

DATA = Path("../shared/data")
KINDS = {"noise, 6 % differ": 0.06, "lost classes": 0.02, "noise, 10 % differ": 0.1}
LOSSES = (0.0, 0.01, GOAL_LOSS, 0.05)
IDENTICAL, EQUAL = Case("identical", 0.0, 0.0), Case("noise, 6 % differ", 0.0, 0.06)
DISAGREEMENTS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
CORES, SEED = 2, 11


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-release", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with banking77/")
    parser.add_argument("--releases", type=int, default=2000, help="of each case")
    parser.add_argument(
        "--canaries", type=int, default=1000, help="whole releases of an identical version, and of an equally good one"
    )
    parser.add_argument("--quick", action="store_true", help="20 releases, 4 canaries: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    if not (args.data / "banking77" / "train.csv").is_file():
        raise InputError(str(args.data), "it holds no banking77/train.csv", "name the folder that does: --data")
    console, started = Terminal(soft_wrap=True, width=180), time.monotonic()

    def report(step: str) -> None:
        console.print(styled(f"{time.monotonic() - started:6.0f} s", "dim"), "", step)

    releases, canaries = (20, 4) if args.quick else (args.releases, args.canaries)
    settings = load_params().release
    report("the champion answers Banking77")
    corpus = read_corpus(args.data / "banking77")
    context, initial = get_context("fork"), (corpus, settings, releases)
    with ProcessPoolExecutor(CORES, mp_context=context, initializer=_share, initargs=initial) as pool:
        cases = [Case(kind, lost, disagreement) for kind, disagreement in KINDS.items() for lost in LOSSES]
        report(f"{len(cases)} cases of {releases} releases")
        compared = compare(list(pool.map(_replay_shared, cases)), settings.false_rollbacks)
        report(f"{canaries} whole releases of an identical version, and of an equally good one")
        identical, equal = (
            list(pool.map(partial(_play_shared, case), range(canaries), chunksize=5)) for case in (IDENTICAL, EQUAL)
        )
    report("the rule for undecided versions")
    estimates = {share: _simulate(settings, share, 2 * releases) for share in DISAGREEMENTS}
    rows = [
        *to_rows(compared),
        canary_row("K3b", "an identical version", identical),
        canary_row("R1 false", f"{label(EQUAL)}, whole releases with guardrails", equal),
        *(estimate_row(share, *pair) for share, pair in estimates.items()),
    ]
    path = write(rows, args.out, "release")
    write_json(args.out / "release-readings.json", readings(compared))
    pictures.draw(compared, estimates, corpus, settings, args.out / "release.png")
    console.print(table(rows, BARS, "gradual releases: goal R1"))
    report("done")
    console.print(f"→ {path}, {args.out / 'release-readings.json'}, {args.out / 'release.png'}")


def readings(compared: list[Compared]) -> list[dict[str, Any]]:
    """Return every rule's power, labels and harm on every case."""
    return [
        {
            "case": label(one.played.case),
            "releases": len(one.played.harmed),
            "ours": {
                "refused": float(one.played.verdicts.is_refused.mean()),
                "for_the_estimate": float(one.played.verdicts.is_low.mean()),
                "labels": float(one.played.verdicts.labels.mean()),
                "harmed": float(one.played.harmed.mean()),
            },
            **{
                name: {
                    "rolled_back": float(reaction.is_rolled_back.mean()),
                    "labels": float(reaction.labels.mean()),
                    "harmed": float(reaction.harmed.mean()),
                    "requests": float(reaction.at.mean()),
                }
                for name, reaction in one.reactions.items()
            },
        }
        for one in compared
    ]


_shared: dict[str, Any] = {}


def _share(corpus: Corpus, settings: ReleaseSettings, releases: int) -> None:
    from threadpoolctl import threadpool_limits

    _shared.update(corpus=corpus, settings=settings, releases=releases, limits=threadpool_limits(1))


def _replay_shared(case: Case) -> Played:
    return replay(_shared["corpus"], case, _shared["settings"], releases=_shared["releases"], seed=SEED)


def _play_shared(case: Case, number: int) -> Ending:
    return play(_shared["corpus"], case, _shared["settings"], seed=SEED, number=number)


def _simulate(settings: ReleaseSettings, share: float, releases: int) -> tuple[SimulatedVerdicts, SimulatedVerdicts]:
    equal, worse = (
        simulate_shadow(settings, *outcome_shares(share, lost), releases=releases, seed=SEED) for lost in (0.0, GOAL_LOSS)
    )
    return equal, worse


if __name__ == "__main__":
    run_stage(main)
