"""Sections that the ML engineer changes: data, training, evaluation, export and the package."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.section import Count, Fraction, Integers, Positive, Section, Share

RATES = r"^(none|[^=, ]+=[0-9.]+(e[+-]?[0-9]+)?(, *[^=, ]+=[0-9.]+(e[+-]?[0-9]+)?)*)$"  # pattern=rate, pattern=rate
MERGES = r"^(none|[^=,]+=[^=,]+(,[^=,]+=[^=,]+)*)$"  # label=label, label=label


class Data(Section):
    """The sources of rows, and the limits that a row must keep."""

    source: Path
    test: Path
    unlabelled: Path
    text_column: str
    label_column: str
    group_column: str
    merge_labels: Annotated[str, Field(pattern=MERGES)]
    html: Literal["keep", "decode"]
    max_file_bytes: Count
    max_rows: Count
    max_row_bytes: Count
    max_text_chars: Count
    max_quarantined_share: Share
    near_duplicates: Literal["report", "drop"]
    near_duplicate_jaccard: Annotated[float, Field(gt=0, le=1)]

    @field_validator("source", "test", "unlabelled", mode="before")
    @classmethod
    def _a_file(cls, value: Any, info: ValidationInfo) -> Any:
        without = {"test": "data/no_test.csv", "unlabelled": "data/no_unlabelled.csv"}.get(info.field_name or "")
        if value is None or value == "":
            raise ValueError(f"DVC needs a file here; for none, write {without}" if without else "write the name of a file")
        return value


class Split(Section):
    """Shares of validation and test rows; the rest is for training."""

    seed: int
    rows_a_class: Literal["all"] | Count
    val_share: Fraction
    test_share: Fraction
    small_classes: Literal["refuse", "keep"]


class Spread(Section):
    """Label spreading: labels for `data.unlabelled` from nearby labelled texts in the frozen encoder."""

    neighbours: Count
    sharpness: Positive
    reach: Annotated[float, Field(gt=0, le=0.99)]
    label_names: Literal["ignore", "texts"]
    min_certainty: Annotated[float, Field(ge=0, le=1)]
    folds: Annotated[int, Field(ge=2)]
    seed: int


class Lora(Section):
    """Low-rank adapters, and the memory format of their frozen base."""

    method: Literal["lora", "full"]
    lora_rank: Count
    lora_alpha: Positive
    lora_dropout: Share
    lora_targets: Annotated[str, Field(pattern=r"^[^, ]+(, *[^, ]+)*$")]
    lora_bias: Literal["none", "all", "lora_only"]
    lora_scaling: Literal["standard", "rank_stabilised"]
    quantise: Literal["none", "8bit", "4bit"]
    checkpointing: Literal["none", "layers"]


class Model(Lora):
    """The base encoder, its adapters and the head; drift is measured on a sketch of the embedding (`sketch_*`)."""

    base: str
    revision: str
    weights_sha256: str
    max_pieces: Annotated[int, Field(ge=8)]
    dropout: Share
    kernels: Literal["auto", "modules"]
    lanes: Count
    head_scale: Positive
    sketch_size: Count
    sketch_seed: int


class Causal(Lora):
    """Adapters of a causal language model, and the packed length of its sequences."""

    packed_pieces: Annotated[int, Field(ge=8)]


class Train(Section):
    """One run of fine-tuning; learning rates are peaks after warm-up."""

    seed: int
    epochs: Count
    batch_size: Count
    optimizer: Literal["adamw", "lion", "sgd"]
    beta1: Share
    beta2: Share
    encoder_lr: Positive
    bottom_lr: Positive
    head_lr: Positive
    lr_rules: Annotated[str, Field(pattern=RATES)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["cosine", "linear", "step", "exponential", "constant", "plateau"]
    warmup_share: Share
    final_lr_share: Share
    decay_factor: Fraction
    decay_every_epochs: Positive
    plateau_patience: Annotated[int, Field(ge=0)]
    min_delta: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    explosion: Literal["relative", "absolute"]
    explosion_norm: Positive
    explosion_window: Annotated[int, Field(ge=20)]
    on_explosion: Literal["skip", "clip"]
    explosion_backoff: Fraction
    recovery_steps: Annotated[int, Field(ge=0)]
    max_bad_steps: Count
    trained_layers: Literal["all"] | Count
    frozen: str
    prefix_cache_mb: Annotated[int, Field(ge=0)]
    label_smoothing: Share
    consistency: Annotated[float, Field(ge=0)]
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    measured_steps: Count
    accumulate: Count
    bucket_batches: Count
    watch: Literal["f1_macro", "accuracy", "loss"]
    keep: Literal["latest_within_error", "best"]
    ema_decay: Share
    patience: Count
    max_seconds: Annotated[float, Field(ge=0)]
    folds: Annotated[int, Field(ge=2)]
    checkpoint_s: Annotated[float, Field(ge=0)]
    log_every_steps: Count

    @field_validator("accumulate")
    @classmethod
    def _at_most_one_micro_batch_a_row(cls, value: int, info: ValidationInfo) -> int:
        rows = info.data.get("batch_size", value)
        if value > rows:
            raise ValueError(f"a batch of {rows} rows has at most {rows} micro-batches; set it to {rows} or less")
        return value


class Evaluate(Section):
    """Scoring of the test rows, and the frozen control that they are compared with."""

    batch_size: Count
    bootstrap_resamples: Count
    confidence: Fraction
    control_c: Positive
    confused_pairs: Count
    confused_examples: Count
    calibration_bins: Count
    training_rows: Annotated[int, Field(ge=0)]
    seed: int


class Abstain(Section):
    """When a model gives no label: the target that its threshold is fitted for, and the rows that fit and judge it."""

    target: Literal["none", "accuracy", "coverage"]
    value: Fraction
    fallback: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f]*$")]
    unreachable: Literal["refuse", "answer"]
    confidence: Fraction
    fit_share: Fraction
    thresholds: Annotated[int, Field(ge=2)]
    seed: int
    out_of_scope: Path

    @field_validator("out_of_scope", mode="before")
    @classmethod
    def _a_file(cls, value: Any) -> Any:
        if value is None or value == "":
            raise ValueError("DVC needs a file here; for none, write data/no_out_of_scope.csv")
        return value


class Reference(Section):
    """The cut of the reference rows into a calibrate half and an A/A half, and the corruption of their texts."""

    calibrate_share: Fraction
    mistyped: Fraction
    kept_words: Fraction
    seed: int


class Export(Section):
    """ONNX export and the parity gate: the largest difference of logits over every batch size x length."""

    opset: Annotated[int, Field(ge=17)]
    parity_atol: Positive
    parity_batches: Integers
    parity_lengths: Integers


class Session(Section):
    """Choice of the inference session: the gate on held-out rows, the measurement of speed, and the golden answers."""

    choice: Literal[
        "auto", "onnxruntime-fp32", "openvino-bf16", "packed-onnxruntime-fp32", "packed-openvino-bf16", "packed-openvino-int8"
    ]
    min_agreement: Annotated[float, Field(gt=0, le=1)]
    max_accuracy_loss: Share
    min_speedup: Annotated[float, Field(ge=1)]
    threads: Count
    rounds: Count
    timed_texts: Count
    timed_batch: Count
    int8_texts: Count
    golden_texts: Count
    golden_margin: Share
    golden_atol: Positive
    training_texts: Annotated[int, Field(ge=0)]


class Package(Section):
    """The Triton model: batching, micro-batches, device and threads."""

    max_batch_size: Count
    token_budget: Count
    queue_delay_us: Annotated[int, Field(ge=0)]
    device: Literal["cpu", "gpu"]
    instances: Count
    intra_op_threads: Count


class Publish(Section):
    """The name under which models are registered."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


def rates_by_pattern(text: str) -> dict[str, float]:
    """Parse `pattern=rate, pattern=rate` into a dictionary in the order written; `none` gives an empty one."""
    pairs = [] if text == "none" else [part.strip().rsplit("=", 1) for part in text.split(",")]
    return {pattern: float(rate) for pattern, rate in pairs}


def integers(text: str) -> list[int]:
    """Parse a space-separated list."""
    return [int(part) for part in text.split()]
