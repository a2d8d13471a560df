"""The typed records of params.yaml: one frozen record a section, no defaults, unknown keys refused with file and line."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipeline.errors import InputError

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Integers = Annotated[str, Field(pattern=r"^\d+( \d+)*$")]  # DVC cannot interpolate lists

RATES = r"^(none|[^=, ]+=[0-9.]+(e[+-]?[0-9]+)?(, *[^=, ]+=[0-9.]+(e[+-]?[0-9]+)?)*)$"  # pattern=rate, pattern=rate


class Section(BaseModel):
    """A frozen group of settings; values are checked strictly enough that a typo never passes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag(cls, value: Any) -> Any:
        if isinstance(value, bool):  # YAML reads yes, no, on and off as flags, and Python counts a flag as a number
            raise ValueError("no key is a yes or no; put a word in quotes")
        return value


class Data(Section):
    """Where rows come from and which of them are acceptable."""

    source: Path
    test: Path
    unlabelled: Path
    text_column: str
    label_column: str
    max_row_bytes: Count
    max_text_chars: Count
    max_quarantined_share: Share
    near_duplicates: Literal["report", "drop"]
    near_duplicate_jaccard: Annotated[float, Field(gt=0, le=1)]


class Split(Section):
    """Shares of the rows by side; what is neither validation nor test is for training."""

    seed: int
    rows_a_class: Literal["all"] | Count
    val_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    small_classes: Literal["refuse", "keep"]


class Spread(Section):
    """Labels for `data.unlabelled`, from labelled texts near by in the frozen encoder."""

    neighbours: Count
    sharpness: Positive
    reach: Annotated[float, Field(gt=0, le=0.99)]
    label_names: Literal["ignore", "texts"]
    min_certainty: Annotated[float, Field(ge=0, le=1)]
    folds: Annotated[int, Field(ge=2)]
    seed: int


class Lora(Section):
    """Low-rank adapters and how their frozen base is held in memory."""

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
    """The base encoder, its adapters and the head; `sketch_*` shape the fingerprint that drift is measured on."""

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
    """Adapters of a causal language model, and the length its sequences are packed to."""

    packed_pieces: Annotated[int, Field(ge=8)]


class Train(Section):
    """One run of fine-tuning; learning rates are peaks, after warm-up."""

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
    decay_factor: Annotated[float, Field(gt=0, lt=1)]
    decay_every_epochs: Positive
    plateau_patience: Annotated[int, Field(ge=0)]
    min_delta: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    explosion: Literal["relative", "absolute"]
    explosion_norm: Positive
    explosion_window: Annotated[int, Field(ge=20)]
    on_explosion: Literal["skip", "clip"]
    explosion_backoff: Annotated[float, Field(gt=0, lt=1)]
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
    def _a_row_each(cls, value: int, info: ValidationInfo) -> int:
        rows = info.data.get("batch_size", value)
        if value > rows:
            raise ValueError(f"a batch of {rows} rows has at most {rows} micro-batches; set it to {rows} or less")
        return value


class Evaluate(Section):
    """How the test side is scored, and the frozen control it is held against."""

    batch_size: Count
    bootstrap_resamples: Count
    confidence: Annotated[float, Field(gt=0, lt=1)]
    control_c: Positive
    confused_pairs: Count
    confused_examples: Count
    calibration_bins: Count
    training_rows: Annotated[int, Field(ge=0)]
    seed: int


class Reference(Section):
    """How the reference rows are cut into a calibration half and an A/A half, and how their texts are spoilt."""

    batch_size: Count
    calibrate_share: Annotated[float, Field(gt=0, lt=1)]
    mistyped: Annotated[float, Field(gt=0, lt=1)]
    kept_words: Annotated[float, Field(gt=0, lt=1)]
    seed: int


class Export(Section):
    """ONNX export and the parity gate: max |difference of logits| over every batch size x length."""

    opset: Annotated[int, Field(ge=17)]
    parity_atol: Positive
    parity_batches: Integers
    parity_lengths: Integers


class Session(Section):
    """Which session serves: the gate on held-out rows, how speeds are measured, and the golden answers of the one chosen."""

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


class Serve(Section):
    """Where Triton listens; loopback unless you know why not."""

    host: str
    http_port: Port
    grpc_port: Port
    metrics_port: Port
    ready_timeout_s: Positive


class Gateway(Section):
    """The HTTP API in front of Triton: what it takes, how long it waits, what it keeps."""

    host: str
    port: Port
    deadline_ms: Count
    max_waiting_texts: Count
    max_texts: Count
    max_body_bytes: Count
    max_connections: Count
    cache_entries: Annotated[int, Field(ge=0)]
    cache_ttl_s: Positive
    in_flight: Count
    shadow_waiting_texts: Count
    rate_limit_per_s: Annotated[float, Field(ge=0)]
    routing_poll_ms: Count


class Jobs(Section):
    """Asynchronous jobs and their callbacks."""

    workers: Annotated[int, Field(ge=0)]
    max_texts: Count
    max_waiting: Count
    max_attempts: Count
    lease_s: Positive
    poll_ms: Count
    retention_s: Positive
    callback_attempts: Count
    callback_timeout_s: Positive
    callback_private: Literal["refuse", "allow"]


class Log(Section):
    """The prediction log: where its segments go, what of a text they keep, how often they are written."""

    url: str
    text: Literal["keep", "hash"]
    segment_rows: Count
    flush_s: Positive
    buffer_rows: Count


class Alerts(Section):
    """What people are told of, and how: thresholds of the rules, Prometheus' and Alertmanager's pace, where messages go.

    `*_s` are seconds. `none` turns a destination off; a file is named where what it holds is a secret.
    """

    host: str
    prometheus_port: Port
    alertmanager_port: Port
    inbox_port: Port
    monitor_port: Port
    receiver_port: Port
    controller_port: Port
    scrape_s: Count
    evaluate_s: Count
    resend_s: Count
    bridge_s: Count
    for_s: Count
    keep_firing_s: Count
    latency_limit_ms: Positive
    latency_share: Annotated[float, Field(gt=0, lt=1)]
    answered_share: Annotated[float, Field(gt=0, lt=1)]
    burn_fast: Positive
    burn_slow: Positive
    min_requests: Count
    refused_share: Annotated[float, Field(gt=0, lt=1)]
    queue_share: Annotated[float, Field(gt=0, lt=1)]
    monitor_stale_s: Count
    monitor_lag_s: Count
    controller_stale_s: Count
    reference_max_age_s: Count
    window_patience_s: Count
    process_cpu_cores: Positive
    process_memory_bytes: Count
    node_cpu_share: Annotated[float, Field(gt=0, lt=1)]
    node_memory_share: Annotated[float, Field(gt=0, lt=1)]
    gpu_share: Annotated[float, Field(gt=0, lt=1)]
    gpu_memory_share: Annotated[float, Field(gt=0, lt=1)]
    runbooks: str
    group_wait_s: Count
    group_interval_s: Count
    repeat_s: Count
    remember_s: Count
    switch_every_s: Count
    switch_overdue_s: Count
    switch_url: str
    inbox: Literal["here", "none"]
    inbox_messages: Count
    webhook_url: str
    slack_url_file: str
    slack_channel: str
    email_to: str
    email_from: str
    email_server: str
    email_user: str
    email_password_file: str
    controller_url: str
    controller_token_file: str

    @field_validator("switch_overdue_s")
    @classmethod
    def _later_than_the_switch(cls, value: int, info: ValidationInfo) -> int:
        known = info.data
        slowest = sum(known.get(key, 0) for key in ("resend_s", "evaluate_s")) + 2 * known.get("switch_every_s", 0)
        if value <= slowest:
            raise ValueError(f"the switch can be {slowest} s old (resend_s + evaluate_s + 2 switch_every_s) while all is well")
        return value

    @field_validator("for_s")
    @classmethod
    def _sooner_than_alertmanager_forgets(cls, value: int, info: ValidationInfo) -> int:
        if value > 2 * info.data.get("resend_s", value):
            raise ValueError(
                "after a restart of Prometheus an alert has to fire again before Alertmanager forgets it: at most 2 resend_s"
            )
        return value


class Monitor(Section):
    """Windows, calibration of drift alarms, and the harm flag; the promise is false alarms per week over all signals."""

    poll_s: Positive
    batch_rows: Count
    late_s: Positive
    remembered_answers: Count
    windows_kept: Count
    window_rows: Annotated[int, Field(ge=2)]
    rows_per_unit: Count
    min_reference_rows: Annotated[int, Field(ge=2)]
    expected_rows_per_week: Positive
    false_alarms_per_week: Positive
    window_share: Annotated[float, Field(gt=0, lt=1)]
    fit_share: Annotated[float, Field(gt=0, lt=1)]
    null_draws: Annotated[int, Field(ge=100)]
    check_draws: Count
    check_level: Annotated[float, Field(gt=0, lt=1)]
    cells: Annotated[int, Field(ge=8)]
    axes: Count
    kernel_features: Count
    shrinkage: Annotated[float, Field(gt=0)]
    ceiling: Annotated[float, Field(gt=1)]
    examples: Count
    words: Count
    seed: int
    tolerated_loss: Annotated[float, Field(gt=0, lt=1)]
    harm_alpha: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    min_labels: Count


class Gate(Section):
    """What a retrained candidate has to hold against the champion before it is published; shares and accuracies are 0..1."""

    min_accuracy: Share
    min_f1_macro: Share
    min_above_control: Annotated[float, Field(gt=-1, lt=1)]
    rescore_tolerance: Annotated[float, Field(ge=0, lt=1)]
    margin: Annotated[float, Field(gt=0, lt=1)]
    margin_alpha: Annotated[float, Field(gt=0, lt=0.5)]
    false_refusals: Annotated[float, Field(gt=0, lt=0.5)]
    undecided: Literal["pass", "refuse"]
    new_rows: Literal["better", "not_worse"]
    min_new_rows: Count
    new_alpha: Annotated[float, Field(gt=0, lt=0.5)]
    class_margin: Share


class Retrain(Section):
    """When an alert leads to a retrain, and how one is run. `*_s` are seconds."""

    poll_s: Positive
    settle_s: Annotated[float, Field(ge=0)]
    cooldown_s: Annotated[float, Field(ge=0)]
    patience_s: Positive
    budget_s: Positive
    min_labels: Count
    disagreement: Annotated[float, Field(gt=0, le=1)]
    proposal_people: Count
    proposal_texts: Count
    feedback_reach_s: Positive
    lease_s: Positive
    attempts: Count
    retry_s: Annotated[float, Field(ge=0)]
    run_limit_s: Positive
    stop_within_s: Positive
    max_unseen: Count
    max_body_bytes: Count
    body_within_s: Positive


class Params(Section):
    """All of params.yaml."""

    data: Data
    split: Split
    spread: Spread
    model: Model
    causal: Causal
    train: Train
    evaluate: Evaluate
    reference: Reference
    export: Export
    session: Session
    package: Package
    publish: Publish
    serve: Serve
    gateway: Gateway
    jobs: Jobs
    log: Log
    monitor: Monitor
    retrain: Retrain
    alerts: Alerts
    gate: Gate


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read params.yaml; raises `InputError` naming file, line, key and the nearest valid name."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(str(path), "there is no such file", "run the command in the project's folder") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}", f"this is not valid YAML: {error.problem}", "mend that line") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(
            str(path), f"this is not valid YAML: {error}", "mend it, or restore it: git checkout params.yaml"
        ) from None
    if not isinstance(values, dict):
        raise InputError(str(path), "this holds no sections", "restore it: git checkout params.yaml")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise _explain(path, tree, error) from None


def flatten(section: BaseModel, prefix: str) -> dict[str, str]:
    """`{"train.epochs": "8", ...}`: the names DVC uses on the command line, the values as MLflow keeps them."""
    return {f"{prefix}.{key}": str(value) for key, value in section.model_dump().items()}


def rates_by_pattern(text: str) -> dict[str, float]:
    """`pattern=rate, pattern=rate` as a dictionary in the order written; `none` is an empty one."""
    pairs = [] if text == "none" else [part.strip().rsplit("=", 1) for part in text.split(",")]
    return {pattern: float(rate) for pattern, rate in pairs}


def integers(text: str) -> list[int]:
    """The numbers of a space-separated list."""
    return [int(part) for part in text.split()]


def _explain(path: Path, tree: yaml.Node | None, error: ValidationError) -> InputError:
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt key is missing too
    keys = [str(part) for part in first["loc"]]
    where = f"{path}, line {_line_of(tree, keys)}"
    name = ".".join(keys)
    if first["type"] == "extra_forbidden":
        valid = _valid_names(keys[:-1])
        near = get_close_matches(keys[-1], valid, n=1, cutoff=0)
        return InputError(where, f"there is no key `{name}`", f"did you mean `{near[0]}`? Valid here: {', '.join(valid)}")
    if first["type"] == "missing":
        return InputError(where, f"the key `{name}` is missing", "add it; `git diff params.yaml` shows what was taken away")
    return InputError(where, f"`{name}` = {first['input']!r} is not usable: {first['msg']}", _nearest(first))


def _nearest(error: Any) -> str:
    """The valid value nearest to the one that is not usable, as far as it can be told."""
    limits = error.get("ctx", {})
    if error["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", limits["expected"])
        return f"did you mean `{get_close_matches(str(error['input']), valid, n=1, cutoff=0)[0]}`? Valid here: {', '.join(valid)}"
    for bound in ("ge", "le"):
        if bound in limits:
            return f"the nearest that works: {limits[bound]}"
    for bound, side in (("gt", "above"), ("lt", "below")):
        if bound in limits:
            return f"take a number {side} {limits[bound]}"
    return "change the value"


def _valid_names(parents: list[str]) -> list[str]:
    record: Any = Params
    for key in parents:
        record = record.model_fields[key].annotation
    return list(record.model_fields)


def _line_of(node: yaml.Node | None, keys: list[str]) -> int:
    """The line of the deepest key that stands in the file, counted from 1."""
    line = 1
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [(k, v) for k, v in pairs if k.value == key]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line
