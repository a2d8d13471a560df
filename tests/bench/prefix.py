"""Row T3: an epoch with the prefix cache beside the same epoch without, with 4 and with 5 of 6 layers frozen; in pairs.

Both arms train the same layers from the same weights on equal batches; the cache is full, as after the first epoch.
`.venv/bin/python -m tests.bench.prefix --rows 960` prints the rows; the losses of both arms are held against each other.
"""

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import NamedTuple

import torch

from pipeline.learning.base import base_folder
from pipeline.learning.classification import Rows, classification
from pipeline.learning.freezing import freeze
from pipeline.learning.loop import fit
from pipeline.learning.model import build
from pipeline.learning.precision import Precision
from pipeline.learning.prefix_cache import PrefixCache
from pipeline.params import Params, load_params
from pipeline.records import labels_of, read_examples
from pipeline.runtime.pieces import load_tokenizer, to_pieces
from tests.bench.report import Ratio, Row, paired_ratio

LAYERS = 6


class Epoch(NamedTuple):
    """One epoch of one arm."""

    seconds: float
    cpu_s: float
    losses: list[float]


class Arms(NamedTuple):
    """Epochs without and with the cache, pair by pair, and what filling it cost."""

    without: list[Epoch]
    cached: list[Epoch]
    fill_s: float


def measure(rows: Rows, classes: int, params: Params, frozen: int, pairs: int, precision: Precision) -> Arms:
    """Pairs of epochs over the same batches."""
    settings = params.train.model_copy(update={"epochs": 1, "trained_layers": LAYERS - frozen, "log_every_steps": 1})

    def epoch(arm: Rows, inside: AbstractContextManager[None]) -> Epoch:
        losses: list[float] = []
        with inside:
            none = rows._replace(pieces=arm.pieces[:1], targets=arm.targets[:1])  # validation is no part of the row
            task = classification(classifier, arm, none, settings, precision)._replace(validate=lambda: {"f1_macro": 0.5})
            classifier.load_state_dict(before)
            torch.manual_seed(1)
            wall, cpu = perf_counter(), process_time()
            fit(task, settings, log_step=lambda _, values: losses.append(values["loss"]), log_epoch=lambda *_: None)
            return Epoch(perf_counter() - wall, process_time() - cpu, losses)

    torch.manual_seed(0)
    classifier = build(base_folder(params.model), classes, params.model)
    cut = freeze(classifier, settings)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with TemporaryDirectory() as home:
        cache = PrefixCache(classifier.encoder, cut, Path(home), precision)
        began = perf_counter()
        cached = rows._replace(collate=cache.collate(rows.pieces, 2 * settings.batch_size))
        fill_s = perf_counter() - began
        epoch(cached, cache.in_place())  # warm
        both = [(epoch(rows, nullcontext()), epoch(cached, cache.in_place())) for _ in range(pairs)]
    return Arms([a for a, _ in both], [b for _, b in both], fill_s)


def row(arms: Arms, frozen: int, precision: Precision) -> Row:
    """As the other benches write it."""
    ratio: Ratio = paired_ratio([one.seconds for one in arms.without], [one.seconds for one in arms.cached])
    value = min(one.seconds for one in arms.cached)
    what = f"{precision}: an epoch with {frozen} of {LAYERS} layers frozen and cached"
    return Row(
        "T3", what, value, "s", "the same without the cache", min(one.seconds for one in arms.without), ratio, len(arms.cached)
    )


def largest_difference(arms: Arms) -> float:
    """Of a step's loss between the arms."""
    return max(
        abs(x - y) for a, b in zip(arms.without, arms.cached, strict=True) for x, y in zip(a.losses, b.losses, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, default=Path("artifacts/split"))
    parser.add_argument("--rows", type=int, default=960)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rank", type=int, help="of the adapters; by default that of params.yaml")
    parser.add_argument("--targets", help="of the adapters, as in params.yaml")
    args = parser.parse_args()
    params = load_params()
    adapters = {"lora_rank": args.rank or params.model.lora_rank, "lora_targets": args.targets or params.model.lora_targets}
    params = params.model_copy(update={"model": params.model.model_copy(update=adapters)})
    examples = read_examples(args.split / "train.parquet")[: args.rows]
    labels = sorted(set(labels_of(examples)))
    pieces = to_pieces(load_tokenizer(base_folder(params.model), params.model.max_pieces), [one.text for one in examples])
    rows = Rows(pieces, torch.tensor([labels.index(label) for label in labels_of(examples)]))
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        for frozen in (4, 5):
            arms = measure(rows, len(labels), params, frozen, args.pairs, precision)
            found = row(arms, frozen, precision)
            assert found.ratio is not None
            print(
                f"{found.what}: {found.ratio.median:.2f}x [{found.ratio.low:.2f}, {found.ratio.high:.2f}], "
                f"{found.control_value:.2f} → {found.value:.2f} s; filling {arms.fill_s:.2f} s; "
                f"CPU {sum(a.cpu_s for a in arms.without) / sum(b.cpu_s for b in arms.cached):.2f}x; "
                f"largest difference of a loss {largest_difference(arms):.1e}"
            )


if __name__ == "__main__":
    main()
