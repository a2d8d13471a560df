"""Train with Hugging Face's Trainer in a child process of the training bench: PEFT or full fine-tuning, stock or tuned."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pipeline.network.base_model import base_folder
from pipeline.params import load_params
from tests.bench.train.rows import BenchRows, Settings, Windows, read_rows

STOCK: dict[str, Any] = {}  # the Trainer's defaults: random batches, fp32; the collator pads each batch to its longest row
TUNED: dict[str, Any] = {"bf16": True, "train_sampling_strategy": "group_by_length", "length_column_name": "length"}


class WindowCallback(TrainerCallback):  # type: ignore[misc]
    """Run the Trainer in windows."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop = not self.windows.wait()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop = not self.windows.step()


class CountingCollator(DataCollatorWithPadding):  # type: ignore[misc]
    """Collate as the stock collator does, and count the padding."""

    windows: Windows | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().__call__(features)
        assert self.windows is not None
        self.windows.count(len(features), batch["input_ids"].numel(), int(batch["attention_mask"].sum()))
        return batch


def make_model(folder: Path, settings: Settings, classes: int, full: bool) -> nn.Module:
    """Return the base model with Hugging Face's classification head; all of it is trained, or only adapters and head."""
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes, dtype=torch.float32)
    if full:
        return model
    targets = settings.lora_targets if settings.lora_targets == "all-linear" else settings.lora_targets.split(",")
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=targets)
    adapted: nn.Module = get_peft_model(model, config)
    return adapted


def as_dataset(rows: BenchRows) -> Dataset:
    """Return pieces, masks, labels and lengths as the Trainer needs them."""
    masks, lengths = [[1] * len(pieces) for pieces in rows.pieces], [len(pieces) for pieces in rows.pieces]
    return Dataset.from_dict({"input_ids": rows.pieces, "attention_mask": masks, "labels": rows.targets, "length": lengths})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(7)
    settings, rows, folder = Settings(**args.settings), read_rows(args.rows), base_folder(load_params().model)
    windows = Windows()
    collator = CountingCollator(AutoTokenizer.from_pretrained(folder))
    collator.windows = windows
    arguments = TrainingArguments(
        output_dir=str(args.rows.parent / "hf"),
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        num_train_epochs=1000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=7,
        **(TUNED if args.tuned else STOCK),
    )
    model = make_model(folder, settings, 1 + max(rows.targets), args.full)
    data = as_dataset(rows)
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[WindowCallback(windows)]).train()


if __name__ == "__main__":
    main()
