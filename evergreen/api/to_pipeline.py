"""From a notebook to the pipeline: the rows as a data file, and the commands that make the same model there."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evergreen.api.settings import SEPARATOR
from pipeline.atomic_write import atomic_write
from pipeline.data.columns import NO_GROUP, NO_MERGES
from pipeline.data.records import Example
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.params.overrides import as_override

BIN = ".venv/bin"
DEFAULT_COLUMN = "auto"
GROUP = "group"


class TrainedOn(NamedTuple):
    """What a model was trained on: accepted rows, supplied test rows (often none), settings that differ from params.yaml."""

    rows: Sequence[Example]
    test: Sequence[Example]
    settings: Mapping[str, Any]
    params: Params
    project: Path

    def to_pipeline(self, file: Path) -> list[str]:
        """Write the rows, and supplied test rows beside them; return the commands. Raise `InputError` for a file that exists."""
        if file.suffix != ".jsonl":
            raise InputError(str(file), "rows are written as JSON lines", f"name it {file.with_suffix('.jsonl').name}")
        test_file = file.with_name(f"{file.stem}.test.jsonl")
        files = {file: self.rows, **({test_file: self.test} if self.test else {})}
        for path in files:
            if path.exists():
                raise InputError(str(path), "the file exists", "name another file")
        for path, rows in files.items():
            self._write(path, rows)
        named = {
            "data.source": self._shown(file),
            **({"data.test": self._shown(test_file)} if self.test else {}),
            **self._as_written(),
        }
        changed = {name.replace(SEPARATOR, ".", 1): str(value) for name, value in self.settings.items()}
        settings = " ".join(f"-S {as_override(key, value)}" for key, value in (changed | named).items())
        there = [] if Path.cwd() == self.project else [f"cd {shlex.quote(str(self.project))}"]
        return [
            *there,
            f"{BIN}/dvc add {' '.join(shlex.quote(self._shown(path)) for path in files)}",
            f"{BIN}/evergreen try {settings}",
            "make repro",
        ]

    def _as_written(self) -> dict[str, str]:
        """Return the settings by which the pipeline reads the written rows: merged and decoded already, groups in `GROUP`."""
        group = GROUP if any(row.group for row in self.rows) else NO_GROUP
        wanted = {"group_column": group, "merge_labels": NO_MERGES, "html": "keep"}
        data = self.params.data
        return {f"data.{key}": value for key, value in wanted.items() if getattr(data, key) != value}

    def _write(self, path: Path, rows: Sequence[Example]) -> None:
        text, label = (
            default if column == DEFAULT_COLUMN else column
            for column, default in ((self.params.data.text_column, "text"), (self.params.data.label_column, "label"))
        )
        lines = []
        for row in rows:
            fields = {text: row.text, label: row.label, **({GROUP: row.group} if row.group else {})}
            lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
        with atomic_write(path) as part:
            part.write_text("".join(lines), encoding="utf-8")

    def _shown(self, path: Path) -> str:
        """Return the path from the project's folder, where the commands run."""
        absolute = path.resolve()
        return str(absolute.relative_to(self.project)) if absolute.is_relative_to(self.project) else str(absolute)
