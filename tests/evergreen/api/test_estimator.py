"""The training as scikit-learn's: parameters, clones, cross-validation, searches and pipelines."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from evergreen import EvergreenClassifier, InputError
from tests.evergreen.api.conftest import LABELS, SMALL, TEXTS

NUMBERS = [10 if label == "parcel" else 9 for label in LABELS]  # as texts they sort the other way


def test_parameters_are_settings_and_survive_a_clone() -> None:
    classifier = EvergreenClassifier(train__epochs=3)
    assert clone(classifier).set_params(train__epochs=4, verbose=True).get_params() == {"verbose": True, "train__epochs": 4}
    assert classifier.get_params() == {"verbose": False, "train__epochs": 3}
    assert is_classifier(classifier)
    assert repr(classifier) == "EvergreenClassifier(train__epochs=3)"


def test_an_unknown_parameter_is_named_at_once() -> None:
    for call in (lambda: EvergreenClassifier(train__epoch=3), lambda: EvergreenClassifier().set_params(epochs=3)):
        with pytest.raises(InputError, match="did you mean `train__epochs`"):
            call()


def test_it_must_be_fitted_before_it_predicts() -> None:
    with pytest.raises(NotFittedError):
        EvergreenClassifier().predict(TEXTS)


def test_classes_keep_their_type_and_order(small_project: Path) -> None:
    fitted = EvergreenClassifier(**SMALL).fit(np.array(TEXTS), np.array(NUMBERS))
    assert fitted.classes_.tolist() == [9, 10]
    shares = fitted.predict_proba(TEXTS)
    assert shares.shape == (20, 2)
    assert fitted.predict(TEXTS).tolist() == fitted.classes_[shares.argmax(axis=1)].tolist()
    assert fitted.model_.predict(TEXTS) == [str(number) for number in fitted.predict(TEXTS)]
    assert fitted.score(TEXTS, NUMBERS) == np.mean(fitted.predict(TEXTS) == NUMBERS)


def test_a_label_that_is_cleaned_or_merged_keeps_its_class(small_project: Path) -> None:
    spelt = [" parcel" if label == "parcel" else label for label in LABELS]
    spelt[0] = "parcle"
    fitted = EvergreenClassifier(data__merge_labels="parcle=parcel", **SMALL).fit(TEXTS, spelt)
    assert fitted.classes_.tolist() == [" parcel", "money"]
    np.testing.assert_allclose(fitted.predict_proba(TEXTS).sum(axis=1), 1, atol=1e-5)


def test_errors_advise_the_keyword_of_a_setting(small_project: Path) -> None:
    with pytest.raises(InputError, match="data__merge_labels='Parcel=parcel'"):
        EvergreenClassifier(**SMALL).fit(TEXTS, [*LABELS[:-1], "Parcel"])


def test_cross_validation_searches_and_pipelines_work(small_project: Path) -> None:
    classifier = EvergreenClassifier(**SMALL)
    lower = make_pipeline(FunctionTransformer(lambda texts: [text.lower() for text in texts]), classifier)
    assert len(cross_val_score(lower, TEXTS, LABELS, cv=2, error_score="raise")) == 2
    search = GridSearchCV(classifier, {"train__epochs": np.array([1, 2])}, cv=2, error_score="raise", refit=False)
    assert search.fit(TEXTS, LABELS).best_params_["train__epochs"] in (1, 2)


def test_labels_of_several_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="of several kinds: int, str"):
        EvergreenClassifier().fit(["a", "b"], ["x", 1])
