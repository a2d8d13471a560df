"""Tasks of Label Studio, as its JSON export writes them: `data`, `predictions` of the model, `annotations` of people.

https://labelstud.io/guide/task_format
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

from monitoring.flywheel.exchange.records import LABEL, TEXT, ExchangedText, RowError, only_label, part_of

GIVEN = "given_labels"  # in `data`, which Label Studio returns as it was: labels that the export had already


def write_task(text: ExchangedText, number: int) -> dict[str, Any]:
    """Return a text as a task."""
    data = {TEXT: text.text, "prediction_id": text.prediction_id, "cluster": text.cluster}
    given = [given._asdict() for given in text.given]
    model = {"model_version": f"version {text.version}", "score": round(text.confidence, 4), "result": [_choice(text.label)]}
    return {
        "id": number,
        "data": data | ({GIVEN: given} if given else {}),
        "predictions": [model],
        "annotations": [{"result": [_choice(given.label)], "was_cancelled": False} for given in text.given],
    }


def write_interface(labels: Iterable[str]) -> str:
    """Return the labelling interface of a project for these tasks."""
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in labels)
    return (
        f'<View>\n  <Text name="{TEXT}" value="${TEXT}"/>\n'
        f'  <Choices name="{LABEL}" toName="{TEXT}" choice="single-radio" showInLine="true">\n{choices}  </Choices>\n</View>\n'
    )


def read_task(task: object, by: str) -> tuple[str, str | None, int]:
    """Return prediction id, label if any, and how many annotations were known before; raise `RowError`."""
    data = part_of(task, "data", dict)
    prediction_id = part_of(task, "data.prediction_id", str)
    known = Counter(str(given.get("label")) for given in _given(data) if given.get("labeller") != by)
    labels = list(_annotated(part_of(task, "annotations", list)))
    new = []
    for label in labels:
        if known[label]:
            known[label] -= 1
        else:
            new.append(label)
    return prediction_id, only_label(new, "annotations"), len(labels) - len(new)


def _given(data: dict[str, Any]) -> list[dict[str, Any]]:
    given = data.get(GIVEN, [])
    return [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []


def _annotated(annotations: list[object]) -> Iterator[str]:
    """Yield the label of each annotation that was not cancelled and chose one."""
    for number, annotation in enumerate(annotations):
        key = f"annotations.{number}"
        if not isinstance(annotation, dict):
            raise RowError(key, "is no object")
        if annotation.get("was_cancelled"):
            continue
        results = part_of(annotation, "result", list)
        chosen = [_chosen(result, f"{key}.result.{at}") for at, result in enumerate(results) if _is_choice(result)]
        if len(chosen) > 1:
            raise RowError(f"{key}.result", "has several choices: a text has one label")
        yield from chosen


def _is_choice(result: object) -> bool:
    return isinstance(result, dict) and result.get("type") == "choices"


def _chosen(result: dict[str, Any], key: str) -> str:
    value = result.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], str) or not choices[0].strip():
        raise RowError(f"{key}.value.choices", "is not a list of one label")
    return choices[0]


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": LABEL, "to_name": TEXT, "type": "choices", "value": {"choices": [label]}}
