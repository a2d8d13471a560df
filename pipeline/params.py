"""The typed records of params.yaml: one frozen record a section, no defaults, unknown keys refused with file and line."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import InputError

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Integers = Annotated[str, Field(pattern=r"^\d+( \d+)*$")]  # DVC cannot interpolate lists


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
    val_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    small_classes: Literal["refuse", "keep"]


class Model(Section):
    """The base encoder, its adapters and the head; `sketch_*` shape the fingerprint that drift is measured on."""

    base: str
    revision: str
    weights_sha256: str
    max_pieces: Annotated[int, Field(ge=8)]
    dropout: Share
    lora_rank: Count
    lora_alpha: Positive
    lora_dropout: Share
    lora_targets: str
    head_scale: Positive
    sketch_size: Count
    sketch_seed: int


class Train(Section):
    """One run of fine-tuning; learning rates are peaks, after warm-up."""

    seed: int
    epochs: Count
    batch_size: Count
    encoder_lr: Positive
    head_lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_share: Share
    clip_norm: Positive
    label_smoothing: Share
    precision: Literal["auto", "bf16", "fp32"]
    bucket_batches: Count
    patience: Count
    log_every_steps: Count


class Evaluate(Section):
    """How the test side is scored, and the frozen control it is held against."""

    batch_size: Count
    bootstrap_resamples: Count
    confidence: Annotated[float, Field(gt=0, lt=1)]
    control_c: Positive
    confused_pairs: Count
    confused_examples: Count
    calibration_bins: Count
    seed: int


class Reference(Section):
    """How the reference rows are cut into a calibration half and an A/A half."""

    batch_size: Count
    calibrate_share: Annotated[float, Field(gt=0, lt=1)]
    seed: int


class Export(Section):
    """ONNX export and the parity gate: max |difference of logits| over every batch size x length."""

    opset: Annotated[int, Field(ge=17)]
    parity_atol: Positive
    parity_batches: Integers
    parity_lengths: Integers


class Session(Section):
    """Which session serves: the gate on held-out rows, how speeds are measured, and the golden answers of the one chosen."""

    choice: Literal["auto", "onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-bf16"]
    min_agreement: Annotated[float, Field(gt=0, le=1)]
    max_accuracy_loss: Share
    min_speedup: Annotated[float, Field(ge=1)]
    threads: Count
    rounds: Count
    timed_texts: Count
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


class Params(Section):
    """All of params.yaml."""

    data: Data
    split: Split
    model: Model
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
    return InputError(where, f"`{name}` = {first['input']!r} is not usable: {first['msg']}", "change the value")


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
