"""Stage `control` fits a second model in one pass of the encoder, and what travels predicts what the stage measured."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.card.frozen_control import CONTROL, load_control, save_control
from pipeline.data.records import Example, labels_of
from pipeline.metrics import fit_temperature
from pipeline.network.frozen_encoder import frozen_embeddings
from pipeline.params import Model, Params
from pipeline.stages import control as stage
from pipeline.stages.control import ControlResult, class_coefficients, control
from tests.small_base import write_small_base

WORDS = {"refund": "money back refund please", "track": "where is my parcel now", "cancel": "cancel the order today"}


def rows(labels: list[str], begin: int, count: int) -> list[Example]:
    """Return texts of these classes in turn."""
    return [
        Example.model_construct(id=f"t{n}", text=f"{WORDS[labels[n % len(labels)]]} number {n}", label=labels[n % len(labels)])
        for n in range(begin, begin + count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Model:
    base = write_small_base(tmp_path_factory.mktemp("control") / "base", " ".join(WORDS.values()))
    return params.model.model_copy(update={"base": str(base), "weights_sha256": "any", "max_pieces": 32})


@pytest.fixture(scope="module")
def fitted(model: Model, params: Params) -> ControlResult:
    labels = sorted(WORDS)
    return control(rows(labels, 0, 30), rows(labels, 30, 9), rows(labels, 39, 12), model, params.evaluate)


def test_the_encoder_passes_over_each_text_once(model: Model, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def counted(texts: list[str], *_settings: object) -> np.ndarray:
        passes.append(len(texts))
        return np.eye(len(texts), 64, dtype=np.float32)

    monkeypatch.setattr(stage, "frozen_embeddings", counted)
    control(rows(["refund", "track"], 0, 10), rows(["refund", "track"], 10, 4), rows(["track"], 14, 3), model, params.evaluate)
    assert passes == [17]


def test_what_travels_predicts_what_the_stage_measured(
    fitted: ControlResult, model: Model, params: Params, tmp_path: Path
) -> None:
    save_control(tmp_path / CONTROL, fitted.model)
    loaded = load_control(tmp_path)
    test = rows(sorted(WORDS), 39, 12)
    assert loaded is not None
    probabilities = loaded.probabilities(frozen_embeddings([row.text for row in test], model, 4))
    assert loaded.labels[probabilities.argmax(axis=1)].tolist() == fitted.predicted.labels == loaded.test_labels.tolist()
    assert loaded.test_ids.tolist() == [row.id for row in test]
    assert fitted.predicted.labels == labels_of(test)


def test_the_base_is_named_by_the_digest_of_its_weights_also_where_params_accept_any(fitted: ControlResult, model: Model) -> None:
    assert model.weights_sha256 == "any"
    assert len(fitted.model.weights_sha256) == 64
    assert (fitted.model.base, fitted.model.max_pieces) == (model.base, 32)


def test_the_temperature_is_that_of_the_validation_rows(model: Model, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = sorted(WORDS)
    sides = [rows(labels, begin, count) for begin, count in ((0, 60), (60, 300), (360, 6))]
    truth = np.array([labels.index(row.label) for side in sides for row in side])
    drawn = (np.eye(3, 64)[truth] + np.random.default_rng(2).normal(size=(len(truth), 64)) / 2).astype(np.float32)
    monkeypatch.setattr(stage, "frozen_embeddings", lambda *_args: drawn)
    made = control(*sides, model, params.evaluate).model
    logits = (drawn[60:360] @ made.coefficients.T + made.intercepts).astype(np.float64)
    assert made.temperature == pytest.approx(fit_temperature(logits, truth[60:360]).value)
    assert made.temperature > 1.5  # 64 numbers of 60 rows fit too well


def test_two_classes_and_no_validation_rows_give_the_probabilities_of_scikit_learn(model: Model, params: Params) -> None:
    train, test = rows(["refund", "track"], 0, 12), rows(["refund", "track"], 12, 6)
    made = control(train, [], test, model, params.evaluate)
    probabilities = made.model.probabilities(frozen_embeddings([row.text for row in test], model, 4))
    assert probabilities.shape == (6, 2)
    assert made.model.temperature == 1.0
    assert probabilities.max(axis=1) == pytest.approx(made.predicted.confidence, abs=1e-5)


def test_many_classes_have_the_coefficients_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32)
    fitted = LogisticRegression(max_iter=500).fit(x, np.arange(60) % 3)
    coefficients, intercepts = class_coefficients(fitted)
    assert np.allclose(coefficients, fitted.coef_, atol=1e-6)
    assert np.allclose(intercepts, fitted.intercept_, atol=1e-6)
