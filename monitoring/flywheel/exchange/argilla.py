"""Records of Argilla 2, as `dataset.records.to_json` writes them: `fields`, `suggestions` of the model, `responses` of people.

https://docs.argilla.io/latest/reference/argilla/records/records/
"""

from typing import Any
from uuid import UUID, uuid5

from monitoring.flywheel.exchange.records import LABEL, TEXT, ExchangedText, RowError, only_label, part_of

PEOPLE = UUID("6f2d1c0e-6c1b-4a86-9a3f-0f7a4d2b9e51")  # name space of the ids that our labellers get in an export


def write_record(text: ExchangedText) -> dict[str, Any]:
    """Return a text as a record."""
    responses = [{"value": given.label, "user_id": user_id(given.labeller)} for given in text.given]
    metadata: dict[str, Any] = {"version": text.version, "cluster": text.cluster}
    return {
        "id": text.prediction_id,
        "fields": {TEXT: text.text},
        "metadata": metadata | ({"labelled_by": [given.labeller for given in text.given]} if text.given else {}),
        "suggestions": {LABEL: {"value": text.label, "score": round(text.confidence, 4), "agent": f"version {text.version}"}},
        "responses": {LABEL: responses} if responses else {},
        "vectors": {},
        "_server_id": None,
    }


def user_id(labeller: str) -> str:
    """Return the id that a labeller has in every export."""
    return str(uuid5(PEOPLE, labeller))


def read_record(record: object, by: str) -> tuple[str, str | None, int]:
    """Return prediction id, label if any, and how many responses were known before; raise `RowError`."""
    prediction_id = part_of(record, "id", str)
    responses = part_of(record, "responses", dict)
    answers = responses.get(LABEL, [])
    if not isinstance(answers, list):
        raise RowError(f"responses.{LABEL}", "is no list")
    others = _exported_people(record) - {user_id(by)}
    labels = {number: _value(answer, number) for number, answer in enumerate(answers)}
    new = [label for number, label in labels.items() if label is not None and str(answers[number].get("user_id")) not in others]
    known = sum(label is not None for label in labels.values()) - len(new)
    return prediction_id, only_label(new, f"responses.{LABEL}"), known


def _exported_people(record: object) -> set[str]:
    """Return the ids of people who had labelled the text when it was exported."""
    metadata = record.get("metadata") if isinstance(record, dict) else None
    names = metadata.get("labelled_by", []) if isinstance(metadata, dict) else []
    return {user_id(str(name)) for name in names} if isinstance(names, list) else set()


def _value(answer: object, number: int) -> str | None:
    """Return the label of a response; None for one that was discarded."""
    key = f"responses.{LABEL}.{number}"
    if not isinstance(answer, dict):
        raise RowError(key, "is no object")
    value = answer.get("value")
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{key}.value", "is not one label")
    return value
