"""`EvergreenClassifier`: the training as an estimator of scikit-learn, for cross-validation, searches and pipelines."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags
from sklearn.utils.validation import check_is_fitted

from evergreen.api.columns import values
from evergreen.api.model import EvergreenModel
from evergreen.api.project import find_project, private_home
from evergreen.api.settings import advice_in_keywords, check_names, read_settings
from evergreen.api.training import PARAMS, at_project, complete, new_folder, open_trained, warn_of_rows_set_aside
from pipeline.data.columns import merged_labels
from pipeline.errors import InputError
from pipeline.in_memory.given_rows import GivenRows, accept
from pipeline.output.plain_logs import log_plainly
from pipeline.output.progress import progress
from pipeline.params import Data
from pipeline.runtime.text import clean

NAME = "estimator"


class EvergreenClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is not typed
    """A classifier of texts to be trained. Its parameters are settings of params.yaml: `train__epochs=3` is `train.epochs`.

    `fit` trains on all rows but a validation share (`split__val_share`), which chooses the epoch and the temperature; it scores
    nothing and logs nothing, because the caller does. `verbose` shows progress. `evergreen.train` scores beside the control.
    """

    def __init__(self, *, verbose: bool = False, **settings: Any) -> None:
        check_names(settings)
        self.verbose = verbose
        self._settings = settings

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Train on texts and labels; raise `InputError` for data and settings that the pipeline would refuse."""
        project = find_project()
        params = at_project(read_settings(project / PARAMS, self._settings), project, NAME)
        targets = list(values(y, "labels"))
        classes = _classes(targets)
        given = GivenRows(list(values(X, "texts")), [None if target is None else str(target) for target in targets])
        with advice_in_keywords():
            accepted = accept(given, None, params)
        warn_of_rows_set_aside(accepted, len(given.texts))
        folder = new_folder()
        log_plainly()
        with private_home(project) as home, progress(is_shown=self.verbose):
            from pipeline.in_memory.fine_tuning import Workplace, train_without_test  # torch takes seconds to import

            train_without_test(accepted.rows, params, Workplace(home, project, folder.exported))
            complete(folder)
        self.model_: EvergreenModel = open_trained(folder, "trained here")
        by_label = _by_label(classes, params.data)
        known = {by_label.get(label, label): column for column, label in enumerate(self.model_.labels)}
        order = sorted(known, key=lambda value: (type(value).__name__, value))  # a merged label may be a text among numbers
        self.classes_: NDArray[Any] = np.array(order)
        self._columns = [known[value] for value in order]
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the class of each text (texts,)."""
        best = self.predict_proba(X).argmax(axis=1)  # raises when it is not fitted
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the calibrated probabilities (texts, classes), in the order of `classes_`."""
        check_is_fitted(self, "model_")
        return self.model_.predict_proba(X)[:, self._columns]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return `verbose` and the settings."""
        return {"verbose": self.verbose, **self._settings}

    def set_params(self, **params: Any) -> Self:
        """Change `verbose` and settings; raise `InputError` for a keyword that is neither."""
        self.verbose = params.pop("verbose", self.verbose)
        check_names(params)
        self._settings = {**self._settings, **params}
        return self

    def __sklearn_tags__(self) -> Tags:
        """Describe it to scikit-learn as a classifier of texts."""
        return text_classifier_tags()


def text_classifier_tags() -> Tags:
    """Return scikit-learn's description of a classifier whose rows are texts."""
    return Tags(
        estimator_type="classifier",
        target_tags=TargetTags(required=True),
        classifier_tags=ClassifierTags(),
        input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
    )


def _by_label(classes: list[Any], data: Data) -> dict[str, Any]:
    """Return the caller's value of each label that the model learns: labels are cleaned, and merged as `data` says."""
    merged = merged_labels(data)
    by_label: dict[str, Any] = {}
    for value in sorted(classes, key=lambda value: clean(str(value)) != str(value)):  # the value that is spelt so, first
        label = clean(str(value))
        if label not in merged:
            by_label.setdefault(label, value)
    return by_label


def _classes(targets: list[Any]) -> list[Any]:
    """Return the distinct labels in order; raise `InputError` for labels that have none."""
    try:
        return sorted({target for target in targets if target is not None})
    except TypeError:
        kinds = ", ".join(sorted({type(target).__name__ for target in targets if target is not None}))
        raise InputError("labels", f"they are of several kinds: {kinds}", "give labels of one kind") from None
