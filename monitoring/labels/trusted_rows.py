"""Rows whose labels are trusted: those of the corpus, and among them the protected ones that measure a model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.data.columns import find_columns
from pipeline.data.fence import Fence
from pipeline.data.records import Example, make_example, read_examples, text_id
from pipeline.data.row_files import read_rows
from pipeline.data.split_sides import side_of
from pipeline.errors import InputError
from pipeline.home import ARTIFACTS
from pipeline.params import Data, Params
from pipeline.reference_profile import load_reference


class TrustedRow(NamedTuple):
    """A text of the corpus and its label."""

    text: str
    label: str


class TrustedRows(NamedTuple):
    """Rows of the corpus (source and test file), and labels of protected rows, both by content id."""

    corpus: dict[str, TrustedRow]
    protected: dict[str, str]
    fence: Fence | None = None  # of the protected texts; None: there are none


def read_trusted(root: Path, champion: Path | None, stored: Sequence[Mapping[str, Any]], params: Params) -> TrustedRows:
    """Read the data of the clone at `root`.

    Protected are the rows that measure a model: those of the champion's reference, of the validation and test sides, and of the
    test file. `stored` are rows made from feedback: those on which the champion was measured are protected too.
    """
    source = list(_examples(_data_file(root, params.data.source), params.data))
    test = list(_examples(_data_file(root, params.data.test), params.data))
    corpus = {id: TrustedRow(row.text, str(row.label)) for id, row in _consistent([*source, *test]).items()}
    test_share = 0.0 if test else params.split.test_share
    sides = {row.id: side_of(row, params.split.seed, val_share=params.split.val_share, test_share=test_share) for row in source}
    measured = _reference_ids(champion) if champion else frozenset()
    current_rows = _current_test_rows(root)
    protected = {row.id: str(row.label) for row in current_rows}
    current = {row.id: row.text for row in current_rows}
    protected |= {text_id(row["text"]): row["label"] for row in stored if text_id(row["text"]) in measured}
    is_protected = measured | {row.id for row in test} | {id for id, side in sides.items() if side != "train"}
    protected |= {id: row.label for id, row in corpus.items() if id in is_protected or id in protected}
    stored_texts = {text_id(row["text"]): str(row["text"]) for row in stored}
    texts = {key: row.text for key, row in corpus.items()} | current | stored_texts
    measuring = [texts[key] for key in sorted(protected) if key in texts]
    fence = Fence(measuring, params.split, has_test=bool(test), jaccard=params.data.near_duplicate_jaccard)
    return TrustedRows(corpus, protected, fence)


def _data_file(root: Path, name: Path) -> Path:
    """Return the file in the working tree, or in the current clone: DVC restores what git does not have."""
    path = root / name
    return path if path.is_file() else name


def _examples(path: Path, data: Data) -> Iterator[Example]:
    """Yield the labelled rows that stage ingest accepts; it reports the others."""
    rows = list(read_rows(path, data))
    names = dict.fromkeys(name for row in rows if row.fields for name in row.fields)
    if not names:
        return
    columns = find_columns(path, names, data)
    for row in rows:
        try:
            example = make_example(row.fields or {}, columns, max_text_chars=data.max_text_chars, source=path.stem)
        except ValidationError:
            continue
        if example.label is not None:
            yield example


def _consistent(examples: Iterable[Example]) -> dict[str, Example]:
    """Return the rows by id without texts that have several labels, whose label is not known."""
    rows: dict[str, Example] = {}
    conflicts = set()
    for row in examples:
        if rows.setdefault(row.id, row).label != row.label:
            conflicts.add(row.id)
    return {id: row for id, row in rows.items() if id not in conflicts}


def _reference_ids(champion: Path) -> frozenset[str]:
    try:
        return frozenset(load_reference(champion / "reference.npz").ids.tolist())
    except (OSError, ValueError, KeyError):
        return frozenset()


def _current_test_rows(root: Path) -> list[Example]:
    path = root / ARTIFACTS / "split/test.parquet"
    try:
        return read_examples(path) if path.is_file() else []
    except (OSError, ValueError, KeyError) as error:
        raise InputError(str(path), f"the test rows cannot be read: {error}", "make them: .venv/bin/dvc repro split") from None
