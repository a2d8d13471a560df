"""Names, notes and tags for people who look at MLflow's pages. Pure: values in, text out."""

from collections.abc import Mapping
from pathlib import Path

DVC_NAME, RECIPE = "DVC_EXP_NAME", "EVERGREEN_RECIPE"  # of the environment
MAX_NAME_CHARS = 120
NOT_IN_MODEL_NAMES = str.maketrans({".": "·", **dict.fromkeys("/:%\"'", "-")})


def run_name(params: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    """Return the name of DVC's experiment, else data and recipe; None when the params name no data."""
    if name := environment.get(DVC_NAME):
        return name[:MAX_NAME_CHARS]
    source = params.get("data.source")
    return ", ".join(filter(None, (Path(source).stem, recipe(params, environment))))[:MAX_NAME_CHARS] if source else None


def recipe(params: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """Return the recipe's name, else the settings that matter most: `lora rank 16, lr 0.001, 8 epochs`."""
    if name := environment.get(RECIPE):
        return Path(name).stem
    method, rank = params.get("model.method"), params.get("model.lora_rank")
    rate, epochs = params.get("train.encoder_lr"), params.get("train.epochs")
    parts = (f"lora rank {rank}" if method == "lora" else method, rate and f"lr {rate}", epochs and f"{epochs} epochs")
    return ", ".join(filter(None, parts))


def with_line(note: str, title: str, text: str) -> str:
    """Return a note in Markdown whose line of this title holds the text; other lines, and what people wrote, stay."""
    mark = f"- **{title}**: "
    line = mark + " ".join(text.split())
    lines = note.splitlines()
    if any(other.startswith(mark) for other in lines):
        return "\n".join(line if other.startswith(mark) else other for other in lines)
    return "\n".join([*lines, line])


def as_tags(values: Mapping[str, object]) -> dict[str, str]:
    """Return values as tags; one that is None has no tag."""
    return {key: str(value) for key, value in values.items() if value is not None}


def percent(share: float) -> str:
    """Return `79.4 %`."""
    return f"{100 * share:.1f} %"


def version_tags(metrics: Mapping[str, float], params: Mapping[str, str]) -> dict[str, str]:
    """Return what a person compares versions by, as far as the run knows it: accuracy, control, data."""
    scores = {name: metrics.get(f"{side}/accuracy") for name, side in (("accuracy", "test"), ("control", "control"))}
    known = {name: percent(score) for name, score in scores.items() if score is not None}
    return known | as_tags({"data": params.get("data.source")})


def version_description(tags: Mapping[str, str], run: str | None) -> str:
    """Return one line for the table of versions: `accuracy 79.4 %, control 69.0 %, data data/support_desk.jsonl; run …`."""
    facts = ", ".join(f"{name} {tags[name]}" for name in ("accuracy", "control", "data") if name in tags)
    return "; ".join(filter(None, (facts, f"run {run}" if run else "")))


def model_name(run: str | None) -> str:
    """Return a name that MLflow allows for a logged model: the run's, without the signs that it refuses."""
    return (run or "model").translate(NOT_IN_MODEL_NAMES)
