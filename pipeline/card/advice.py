"""Advises where a fine-tuned model is not shown to be better than its frozen control. Pure."""

from collections.abc import Mapping
from typing import Any

SETTINGS = "train.epochs and train.consistency"
ALL_LAYERS = "*.layer.*"
HEAD_ALONE = f"to train the head alone, on the frozen encoder: .venv/bin/evergreen try -S train.frozen='{ALL_LAYERS}'"
MANY_ROWS = 50  # of a class for training: with fewer, more rows help more than other settings


def control_advice(scores: Mapping[str, Any], report: Mapping[str, Any], frozen: str = "none") -> list[str]:
    """Return what to know and what to do where the model is not shown to be better than the control; empty where it is.

    `scores` and `report` are metrics.json and report.json of stage `evaluate`; `frozen` is the param `train.frozen`.
    """
    gain = report.get("intervals", {}).get("accuracy_above_control")  # paired: on the same rows
    difference = scores["test"]["accuracy"] - scores["control"]["accuracy"]
    if difference > 0 and (gain is None or gain["low"] > 0):
        return []
    return [_verdict(difference, gain, report), _what_helps(report), *([] if ALL_LAYERS in frozen else [HEAD_ALONE])]


def _verdict(difference: float, gain: Mapping[str, float] | None, report: Mapping[str, Any]) -> str:
    verdict = "not better than"
    if difference > 0:
        verdict = "not shown to be better than"
    elif gain and gain["high"] < 0:
        verdict = "worse than"
    interval = f" (interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})" if gain else ""
    rows = f" on the same {report['rows']['test']:,} test rows" if "rows" in report else ""
    points = f"{100 * difference:+.1f} points of accuracy{interval}{rows}"
    return f"fine-tuning is {verdict} the frozen encoder on these data: {points}"


def _what_helps(report: Mapping[str, Any]) -> str:
    per_class = report["rows"]["train"] / len(report["classes"]) if report.get("classes") else None
    if per_class is None or per_class >= MANY_ROWS:
        return f"what may help: {SETTINGS}; the most confused classes are in artifacts/evaluation/report.json"
    rows = f"more labelled rows ({per_class:.0f} a class train here), texts without labels (data.unlabelled)"
    return f"what usually helps: {rows}, then {SETTINGS} (docs/recipes.md)"
