"""Downloads hub data sets to a file, so that stages never depend on the network."""

from pathlib import Path
from typing import Any

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError


def fetch(name: str, *, config: str | None, split: str, revision: str | None, out: Path) -> int:
    """Write one split of a hub data set (or local folder) as jsonl with class names for numbers; return the number of rows."""
    import datasets  # slow to import, and only this command needs it

    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        do = "check the name and the network; offline, provide a file and set data.source to it"
        raise InputError(
            f"data set {name}", f"the hub did not return it: {(str(error).splitlines() or [type(error).__name__])[0]}", do
        ) from None
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.ClassLabel):
            rows = _with_names(rows, column, feature)
    with atomic_write(out) as part:
        rows.to_json(part, force_ascii=False)
    return len(rows)


def _with_names(rows: Any, column: str, feature: Any) -> Any:
    """Return the data set with a column of class numbers replaced by class names."""
    names = [feature.int2str(number) if number is not None and number >= 0 else None for number in rows[column]]
    return rows.remove_columns(column).add_column(column, names)
