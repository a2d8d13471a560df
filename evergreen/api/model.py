"""A packaged model as an object: it predicts in this process, with the answers of `evergreen predict` and the gateway."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from evergreen.api.columns import values
from evergreen.api.project import find_project
from evergreen.api.scores import ModelScores, read_scores
from pipeline.data.records import as_text
from pipeline.errors import EvergreenError, InputError
from pipeline.output.plain_text import join_names, printable
from pipeline.params import Data, load_params
from serving.batch_prediction.input_rows import InputRow, read_text
from serving.batch_prediction.predict_rows import OfflineModel, PredictedRow, predict_rows
from serving.release.manifest import MANIFEST, UNLISTED, package_files
from serving.release.offline import NamedPackage, open_package

if TYPE_CHECKING:
    from evergreen.api.to_pipeline import TrainedOn

PARTS_SHOWN = 5


class EvergreenModel:
    """A classifier of texts that is trained already; `evergreen.load` and `evergreen.train` return it.

    `version` is its number where it was published, `classes_` are its labels in the order of the probabilities. It may be used
    from several threads, and can be pickled: a pickle holds the whole model.
    """

    def __init__(self, package: NamedPackage, *, trained_on: "TrainedOn | None" = None) -> None:
        params = load_params(find_project() / "params.yaml")
        opened = open_package(package.folder, params)
        self.notes = (*package.notes, *opened.notes)
        self.version = package.version
        self.labels: list[str] = list(opened.classifier.labels)
        self.classes_: NDArray[np.str_] = np.array(self.labels)
        self.run_id = opened.classifier.run_id
        self._package, self._trained_on = package, trained_on
        self._data: Data = params.data
        self._model = OfflineModel(opened.classifier, package.version, opened.abstention)

    def predict(self, texts: Iterable[Any]) -> list[str | None]:
        """Return the label of each text; where the version abstains, None or its fallback.

        Raise `InputError` when a text is missing, empty or too long.
        """
        return [answer.answer.label for answer in self._answers(texts)]

    def predict_proba(self, texts: Iterable[Any]) -> NDArray[np.float32]:
        """Return the calibrated probabilities (texts, classes), in the order of `classes_`; raise as `predict` does."""
        shares = chain.from_iterable(answer.answer.probabilities for answer in self._answers(texts))
        return np.fromiter(shares, dtype=np.float32).reshape(-1, len(self.labels))

    def score(self, texts: Iterable[Any], labels: Iterable[Any]) -> float:
        """Return the accuracy: the share of texts that get their label; raise `InputError` where a label is missing."""
        predicted, truth = self.predict(texts), [as_text(label) for label in values(labels, "labels")]
        if None in truth:
            what = f"{truth.count(None):,} of {len(truth):,} are missing; the first: label {truth.index(None)} (counted from 0)"
            raise InputError("labels", what, "leave the texts without a label out")
        if len(predicted) != len(truth):
            what = f"there are {len(predicted):,} texts and {len(truth):,} labels"
            raise InputError("labels", what, "give one label for each text, in the same order")
        if not truth:
            raise InputError("texts", "there are none", "give at least one text with its label")
        return float(np.mean([one == other for one, other in zip(predicted, truth, strict=True)]))

    @property
    def scores(self) -> ModelScores | None:
        """The scores on its test rows, beside the frozen control; None where its folder does not hold them."""
        return read_scores(self._package.folder)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to a new folder, which `evergreen.load` and `evergreen predict --model` read; return the folder.

        `overwrite` replaces a folder that holds a model.
        """
        to = Path(folder)
        if to.exists() and not (overwrite and all((to / name).is_file() for name in (MANIFEST, "1/model.json"))):
            raise InputError(str(to), "the folder exists", "name another one; overwrite=True replaces a saved model")
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as part:
            _write_files(Path(part) / "model", self._files())
            if to.exists():
                shutil.rmtree(to)
            (Path(part) / "model").replace(to)
        return to

    def to_pipeline(self, file: str | Path) -> list[str]:
        """Write the training's rows to a data file; return the commands that make this model again, in the pipeline.

        A model of a notebook is not published: a version needs a commit, tracked data and every gate. The pipeline splits the
        same rows in the same way, so its scores are on the same test rows.
        """
        if self._trained_on is None:
            what = "this model does not hold the rows that it was trained on"
            raise InputError("to_pipeline", what, "call it on what evergreen.train returned, in the same session")
        return self._trained_on.to_pipeline(Path(file))

    def keep(self, folder: TemporaryDirectory[str]) -> None:
        """Keep a temporary folder that holds the model's files as long as the model itself."""
        self._folder = folder

    def __repr__(self) -> str:
        """Name the version and the labels."""
        labels = printable(join_names(self.labels, most=PARTS_SHOWN, quote=""))
        return f"<EvergreenModel {printable(self._package.title)}: {len(self.labels)} labels, {labels}>"

    def _answers(self, texts: Iterable[Any]) -> Iterator[PredictedRow]:
        """Yield the answer to each text in order; a chunk of texts is in memory."""
        checked = _CheckedTexts(texts, self._data)
        for predicted in chain.from_iterable(predict_rows(checked.rows(), self._model)):
            if predicted.answer.is_failed:
                where, reason = predicted.answer.reason.removeprefix("line ").split(": ", 1)
                raise EvergreenError(f"text {int(where) - 1}", reason, "report this: it is a fault of the model or its engine")
            yield predicted
        checked.raise_fault()

    def _files(self) -> dict[str, bytes]:
        """Return the files of the package, the manifest last."""
        files = package_files(self._package.folder, follow_links=True)
        names = [name for name in files if name not in UNLISTED]
        return {name: files[name].read_bytes() for name in (*names, MANIFEST)}

    def __getstate__(self) -> dict[str, Any]:
        """Return the whole model; the rows that it was trained on stay behind."""
        return {"title": self._package.title, "version": self.version, "files": self._files()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Write the files to a temporary folder and open them."""
        temporary = TemporaryDirectory(prefix="evergreen-")
        folder = Path(temporary.name) / "model"
        _write_files(folder, state["files"])
        self.__init__(NamedPackage(state["title"], folder, state["version"]))  # type: ignore[misc]
        self.keep(temporary)

    def __sklearn_clone__(self) -> Self:
        """Return itself: it is trained already, and a clone that must be trained again would be another model."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Return True: it is trained already."""
        return True

    def __sklearn_tags__(self) -> Any:
        """Describe it to scikit-learn as a classifier of texts."""
        from evergreen.api.estimator import text_classifier_tags

        return text_classifier_tags()


class _CheckedTexts:
    """Texts that are checked as they are read; once a text is bad, the rest is checked and not predicted any more."""

    def __init__(self, texts: Iterable[Any], data: Data) -> None:
        self._values, self._data = values(texts, "texts"), data
        self._read = self._bad = 0
        self._first = ""

    def rows(self) -> Iterator[InputRow]:
        """Yield the rows to predict."""
        for number, value in enumerate(self._values):
            row = read_text(number + 1, {}, value, self._data)
            self._read += 1
            if row.text is None:
                self._first = self._first or f"the first: text {number} {row.fault.removeprefix('text ')}"
                self._bad += 1
            elif not self._bad:
                yield row

    def raise_fault(self) -> None:
        """Raise `InputError` when a text was bad."""
        if self._bad:
            what = f"{self._bad:,} of {self._read:,} texts cannot be predicted; {self._first} (counted from 0)"
            do = "leave them out, or let `evergreen predict` mark them in a file"
            raise InputError("texts", what, do)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
