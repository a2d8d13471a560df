"""A short training that prints its losses; run once alone with accumulation, and once by `torchrun` with a process a part."""

import json
import sys
from pathlib import Path

import torch

from pipeline.learning.accumulation import distributed_state
from pipeline.learning.classification import Rows, classification_task
from pipeline.learning.loop import fit
from pipeline.params import load_params
from tests.pipeline.network.little_bert import WORDS, little_classifier

ROWS = 21  # in batches of 8: the last one is smaller


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    here = distributed_state()
    alone = here.num_processes == 1
    params = load_params()
    model = params.model.model_copy(update={"dropout": 0.0, "lora_rank": 4})
    few = {"epochs": 2, "batch_size": 8, "log_every_steps": 1, "accumulate": 2 if alone else 1}
    settings = params.train.model_copy(update=few)
    generator = torch.Generator().manual_seed(2)
    pieces = [torch.randint(1, WORDS, (3 + row % 5,), generator=generator).tolist() for row in range(ROWS)]
    rows = Rows(pieces, torch.arange(ROWS) % 3)
    classifier = little_classifier(folder, model)
    losses: list[float] = []
    task = classification_task(classifier, rows, rows, settings, "fp32")
    fit(task, settings, log_step=lambda _, values: losses.append(values["loss"]), log_epoch=lambda _epoch, _values: None)
    if here.is_main_process:
        print(json.dumps(losses), flush=True)
    here.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
