"""Prints the losses of a short training; run alone with accumulation, and by `torchrun` with one process per micro-batch."""

import json
import sys
from pathlib import Path

import torch

from pipeline.learning.accumulation import distributed_state
from pipeline.learning.classification import Rows, classification_task
from pipeline.learning.loop import fit
from pipeline.params import load_params
from tests.pipeline.network.tiny_bert import WORDS, tiny_classifier

ROWS = 21  # in batches of 8: the last one is smaller


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    state = distributed_state()
    alone = state.num_processes == 1
    params = load_params()
    model = params.model.model_copy(update={"dropout": 0.0, "lora_rank": 4})
    few = {"epochs": 2, "batch_size": 8, "log_every_steps": 1, "accumulate": 2 if alone else 1}
    settings = params.train.model_copy(update=few)
    generator = torch.Generator().manual_seed(2)
    pieces = [torch.randint(1, WORDS, (3 + row % 5,), generator=generator).tolist() for row in range(ROWS)]
    rows = Rows(pieces, torch.arange(ROWS) % 3)
    classifier = tiny_classifier(folder, model)
    losses: list[float] = []
    task = classification_task(classifier, rows, rows, settings, "fp32")
    fit(task, settings, log_step=lambda _, values: losses.append(values["loss"]), log_epoch=lambda _epoch, _values: None)
    if state.is_main_process:
        print(json.dumps(losses), flush=True)
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
