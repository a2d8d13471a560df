"""Run `make bench-flywheel`: goals F1 and F2 of the flywheel on Banking77, with other orders of the queue in the same run.

Rare intents are planted. Scripted annotators label 100 texts a turn, of which a stated share is wrong. A label audit finds
planted wrong labels, and its suspects are dropped beside as many random rows. The figures depend on seeds, not on speed.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline.data.records import write_json
from pipeline.errors import InputError, run_stage
from pipeline.output.terminal import Terminal, styled
from pipeline.params import Params, load_params
from tests.bench.drift.embedded import load
from tests.bench.flywheel import audit, cluster_rows, pictures, verify
from tests.bench.flywheel.audit import AuditResult
from tests.bench.flywheel.orders import ORDERS, OURS
from tests.bench.flywheel.play import Plan, Turn, play
from tests.bench.flywheel.rows import ARRIVING, BARS, to_rows
from tests.bench.flywheel.worlds import RARE_SEEDS, Annotator, Corpus, read_corpus
from tests.bench.report import table, write

DATA, DESK, CACHE = Path("../shared/data"), Path("data/support_desk.jsonl"), Path("reports/bench/embedded")
RIGHT = Annotator(0.0, confuses=False)
WRONG = [Annotator(0.05, confuses=False), Annotator(0.15, confuses=False), Annotator(0.15, confuses=True)]
TURNS = 5
CORES, CLUSTER_SEEDS = 2, 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-flywheel", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with banking77/")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder that caches embedded texts")
    parser.add_argument("--seeds", type=int, default=6, help="worlds for each order")
    parser.add_argument("--out", type=Path, default=Path("reports/bench"))
    args = parser.parse_args()
    if not (args.data / "banking77" / "train.csv").is_file():
        raise InputError(str(args.data), "it holds no banking77/train.csv", "name the folder that does: --data")
    console, started = Terminal(soft_wrap=True, width=180), time.monotonic()

    def report(step: str) -> None:
        console.print(styled(f"{time.monotonic() - started:6.0f} s", "dim"), "", step)

    params = load_params()
    report("embedding texts, or reading them from the cache")
    corpus = read_corpus(args.data / "banking77", params.model, args.cache)
    plans = make_plans(args.seeds)
    with ProcessPoolExecutor(CORES, mp_context=get_context("fork"), initializer=_share, initargs=(corpus, params)) as pool:
        report(f"F1 and F2: {len(plans)} runs of {TURNS} turns")
        played = dict(zip(plans, pool.map(_play_shared, plans), strict=True))
        report("label audit")
        audited = audit.measure(corpus, DESK, params, args.cache, args.seeds, pool)
        report("clusters and their ids")
        texts = load(args.data / "banking77" / "train.csv", params.model, args.cache)
        qualities, stabilities = cluster_rows.measure(texts, params.flywheel, min(args.seeds, CLUSTER_SEEDS), pool)
        report("sure answers")
        verified = verify.measure(corpus, params)
    clusters = cluster_rows.to_rows(qualities, stabilities)
    rows = [*to_rows(played), *audit.to_rows(audited), verify.to_row(verified), *clusters]
    path = write(rows, args.out, "flywheel")
    write_json(args.out / "flywheel-readings.json", readings(played, audited))
    console.print(table(rows, BARS, "the flywheel: goals F1 and F2"))
    pictures.draw(played, args.out / "flywheel.png")
    report("done")
    console.print(f"→ {path}, {args.out / 'flywheel-readings.json'}, {args.out / 'flywheel.png'}")


def make_plans(seeds: int) -> list[Plan]:
    """Return the runs: all orders with right labels, ours and two controls with wrong ones, and intents that keep arriving."""
    plans = []
    for seed in range(seeds):
        plans += [Plan(order, RIGHT, seed, TURNS) for order in ORDERS]
        plans += [Plan(order, annotator, seed, TURNS) for annotator in WRONG for order in ("random", "margin", OURS)]
        for examples in (RARE_SEEDS, 0):
            plans += [Plan(order, RIGHT, seed, TURNS, ARRIVING, examples) for order in ("random", "margin", OURS)]
    return plans


def readings(played: Mapping[Plan, Sequence[Turn]], audited: Sequence[AuditResult]) -> dict[str, Any]:
    """Return all that the rows and the picture are made of."""
    runs = [
        {**plan._asdict(), "annotator": plan.annotator._asdict(), "states": [turn._asdict() for turn in turns]}
        for plan, turns in played.items()
    ]
    return {"runs": runs, "audit": [result._asdict() for result in audited]}


_shared: dict[str, Any] = {}


def _share(corpus: Corpus, params: Params) -> None:
    from threadpoolctl import threadpool_limits

    _shared.update(corpus=corpus, params=params, limits=threadpool_limits(1))


def _play_shared(plan: Plan) -> list[Turn]:
    return play(_shared["corpus"], _shared["params"], plan)


if __name__ == "__main__":
    run_stage(main)
