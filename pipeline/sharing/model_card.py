"""The model card: what a model was trained on, its scores beside the control, its calibration and its limits, as markdown. Pure.

Texts of customers are not quoted, because a card travels further than the data.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from pipeline.card.facts import CardFacts, limits
from pipeline.output.plain_text import printable

SCORES = {"accuracy": "accuracy", "f1_macro": "macro-F1"}
TRAINING = (  # params that a reader of a card looks for
    *("model.method", "model.lora_rank", "model.lora_alpha", "model.lora_targets", "model.max_pieces"),
    *("train.epochs", "train.batch_size", "train.optimizer", "train.encoder_lr", "train.head_lr", "train.schedule", "train.seed"),
)
COMMIT_DIGITS = 12


def model_card(facts: CardFacts, usage: str) -> str:
    """Return the card, with the metadata that the hub reads at its front; `usage` is the section on loading the model."""
    sections = [
        f"# {code(facts.title)}\n\nClassifies a short text as one of {len(facts.labels)} labels, with calibrated probabilities.",
        usage,
        _trained_on(facts),
        _scores(facts),
        _classes(facts),
        _calibration(facts),
        _abstaining(facts),
        _confusions(facts),
        _limits(facts),
        _lineage(facts),
    ]
    return (
        f"---\n{yaml.safe_dump(metadata(facts), sort_keys=False, allow_unicode=True)}---\n\n"
        + "\n\n".join(filter(None, sections))
        + "\n"
    )


def metadata(facts: CardFacts) -> dict[str, Any]:
    """Return the metadata of the hub."""
    test = facts.scores.get("test", {})
    results = [
        {"type": name.partition("_")[0], "name": SCORES[name], "value": round(test[name], 4)} for name in SCORES if name in test
    ]
    task = {"type": "text-classification"}
    held_out = {"name": "held-out rows of the training data", "type": "private", "split": "test"}
    known = {
        "base_model": facts.base_model,
        "library_name": "peft" if facts.is_adapter else "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "evergreen", *(["lora"] if facts.is_adapter else [])],
        "metrics": ["accuracy", "f1"],
    }
    if not results:
        return known
    return {**known, "model-index": [{"name": facts.title, "results": [{"task": task, "dataset": held_out, "metrics": results}]}]}


def code(text: str) -> str:
    """Return a text from outside as a span of code on one line, which no renderer reads as markup."""
    shown = printable(text).replace("|", "\\|")
    if "`" in shown:
        fence = "`" * (max(map(len, re.findall("`+", shown))) + 1)  # a shorter fence would end within the text
        return f"{fence} {shown} {fence}"
    return f"`{shown}`" if shown else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _trained_on(facts: CardFacts) -> str:
    lines = ["## Trained on", ""]
    source = facts.data.get("source", {})
    if source:
        lines.append(f"- {source.get('rows', '?')} rows of {code(str(source.get('file', '')))}, {_given(facts.data)}.")
    rows = facts.report.get("rows", {})
    if rows:
        sides = f"{rows.get('train', '?')} rows to train, {rows.get('val', '?')} to choose the epoch and calibrate"
        lines.append(f"- {sides}, {rows.get('test', '?')} held out to test.")
    cut = facts.report.get("cut_at_max_pieces", {})
    if cut:
        lines.append(f"- Texts are cut after {facts.max_pieces} tokens: {sum(cut.values())} of these rows were.")
    lines.append(f"- Base model: {code(facts.base_model)}.")
    settings = [(code(name), code(facts.params[name])) for name in TRAINING if name in facts.params]
    return "\n".join(lines) + ("\n\n" + table(("setting", "value"), settings) if settings else "")


def _given(data: Mapping[str, Any]) -> str:
    feedback = data.get("feedback", {})
    given = sum(int(feedback.get(name, 0)) for name in ("new", "overrules", "settled"))
    set_aside = data.get("quarantined", {}).get("rows", 0)
    return f"{set_aside} of them set aside as unusable, and {given} labels that people gave later"


def _scores(facts: CardFacts) -> str:
    test, control = facts.scores.get("test", {}), facts.scores.get("control", {})
    intervals = facts.report.get("intervals", {})
    if not test:
        return "## Scores\n\nThe scores of this version are not at hand: the evaluation of its run could not be read."
    rows = []
    for name, shown in SCORES.items():
        ours, above = intervals.get(name), intervals.get(f"{name}_above_control")
        rows.append((
            shown, _percent(test.get(name)), _range(ours), _percent(control.get(name)),
            f"{100 * above['value']:+.1f} points, {100 * above['low']:+.1f} to {100 * above['high']:+.1f}" if above else "",
        ))  # fmt: skip
    confidence = facts.params.get("evaluate.confidence")
    percent = f"{float(confidence):.0%} " if confidence else ""
    header = ("on the test rows", "this model", f"{percent}interval", "control", "above the control")
    note = (
        "Control: logistic regression on the embeddings of the frozen base model, on the same rows. Intervals are by bootstrap."
    )
    return f"## Scores\n\n{table(header, rows)}\n\n{note}"


def _classes(facts: CardFacts) -> str:
    classes = facts.report.get("classes", {})
    if not classes:
        return "## Labels\n\n" + ", ".join(code(label) for label in facts.labels) + "."
    rows = [
        (code(label), str(score["rows"]), _percent(score["precision"]), _percent(score["recall"]), _percent(score["f1"]["value"]),
         _range(score["f1"]))
        for label, score in sorted(classes.items(), key=lambda item: float(item[1]["f1"]["value"]))
    ]  # fmt: skip
    return "## Labels\n\nThe weakest first.\n\n" + table(
        ("label", "test rows", "precision", "recall", "F1", "interval of F1"), rows
    )


def _calibration(facts: CardFacts) -> str:
    test = facts.scores.get("test", {})
    if "ece_calibrated" not in test:
        return ""
    return (
        f"## Calibration\n\nProbabilities are the softmax of logits / {facts.temperature:.3f}, a temperature fitted on "
        f"validation rows.\nThe expected calibration error on the test rows is {_percent(test['ece_calibrated'])} "
        f"({_percent(test['ece'])} without the temperature)."
    )


def _abstaining(facts: CardFacts) -> str:
    test, control = facts.scores.get("test", {}), facts.scores.get("control", {})
    coverages = {name: name.rpartition("_")[2] for name in test if name.startswith("accuracy_at_coverage_")}
    if not coverages:
        return ""
    rows = [(f"{share} %", _percent(test[name]), _percent(control.get(name))) for name, share in coverages.items()]
    lines = [f"- {printable(line)}" for line in facts.report.get("abstain", {}).get("lines", ())]
    header = ("most confident test rows answered", "accuracy of the answers", "control")
    return "\n".join(["## Abstaining", "", table(header, rows), "", *lines])


def _confusions(facts: CardFacts) -> str:
    pairs = [pair for pair in facts.report.get("confused_pairs", []) if pair["rows"] > 1]
    if not pairs:
        return ""
    rows = [(code(pair["true"]), code(pair["predicted"]), str(pair["rows"])) for pair in pairs]
    return "## Known confusions\n\n" + table(("right label", "predicted", "test rows"), rows)


def _limits(facts: CardFacts) -> str:
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in limits(facts, code))


def _lineage(facts: CardFacts) -> str:
    commit = str(facts.origin.get("git_commit") or "")[:COMMIT_DIGITS]
    dirty = ", with uncommitted changes" if facts.origin.get("git_dirty") else ""
    known = [
        ("MLflow run", str(facts.origin.get("mlflow_run_id") or "")),
        ("git commit", commit + dirty if commit else ""),
        ("digest of the data", str(facts.origin.get("data_digest") or "")[:COMMIT_DIGITS]),
        ("inference engine", str(facts.session.get("session") or "")),
    ]
    return "## Origin\n\n" + table(("", ""), [(name, code(value)) for name, value in known if value])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _range(interval: Mapping[str, float] | None) -> str:
    return f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f} %" if interval else ""
