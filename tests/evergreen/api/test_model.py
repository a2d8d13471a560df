"""A loaded model answers as `evergreen predict` does, from any folder and thread, and survives pickles, copies and clones."""

import asyncio
import json
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.metrics import ConfusionMatrixDisplay, get_scorer
from typer.testing import CliRunner

import evergreen
from evergreen.cli import app
from serving.batch_prediction.predict_rows import OFFLINE_CHUNK
from tests.conftest import ROOT

TEXTS = ["where is my parcel?", "i want my money back", "the kettle\u200b leaks", "crème brûlée", "  spaces   within "] * 70


@pytest.fixture
def model(package: Path, elsewhere: Path) -> evergreen.EvergreenModel:
    return evergreen.load(package)


def test_answers_are_those_of_the_command_predict(
    model: evergreen.EvergreenModel, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where commands run
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "in.csv", index=False)
    arguments = ["predict", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.jsonl"), "--model", str(package)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert model.predict(TEXTS) == [row["predicted_label"] for row in rows]
    shares = [[row["probabilities"][label] for label in model.labels] for row in rows]
    np.testing.assert_allclose(model.predict_proba(TEXTS), shares, atol=1e-6)  # a file has six digits


def test_probabilities_have_the_order_of_the_classes_and_the_shape_of_the_texts(model: evergreen.EvergreenModel) -> None:
    shares = model.predict_proba(TEXTS[:3])
    assert (shares.shape, shares.dtype) == ((3, 20), np.float32)
    assert model.classes_[shares.argmax(axis=1)].tolist() == model.predict(TEXTS[:3])
    assert (model.predict([]), model.predict_proba([]).shape) == ([], (0, 20))
    assert model.score(TEXTS[:4], model.predict(TEXTS[:4])) == 1.0


def test_a_long_input_is_read_as_it_is_predicted(model: evergreen.EvergreenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read, ahead = 0, []
    predict = type(model._model).predict

    def recorded(self: Any, texts: Any) -> Any:
        ahead.append(read)
        return predict(self, texts)

    def texts() -> Iterator[str]:
        nonlocal read
        for _ in range(10 * OFFLINE_CHUNK):
            read += 1
            yield "where is my parcel?"

    monkeypatch.setattr(type(model._model), "predict", recorded)
    assert len(model.predict(texts())) == 10 * OFFLINE_CHUNK
    assert all(seen <= (number + 3) * OFFLINE_CHUNK for number, seen in enumerate(ahead))


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (["fine", ""], r"1 of 2 texts cannot be predicted; the first: text 1 is empty"),
        (["fine", None, float("nan"), "fine"], "2 of 4 texts .*the first: text 1 is missing"),
        (pd.Series([1.5]), "text 0 is not a text: the number 1.5"),
        (["x" * 5000], "text 0 is too long: 5000 characters"),
        (["\x1b[2J"], "text 0 contains a control character"),
        ("one text", "this is one text, not a list of texts"),
    ],
)
def test_texts_that_the_command_would_not_predict_are_refused(model: evergreen.EvergreenModel, texts: Any, fault: str) -> None:
    with pytest.raises(evergreen.InputError, match=fault) as raised:
        model.predict(texts)
    assert "what to do: " in str(raised.value)


def test_a_score_needs_a_label_for_each_text(model: evergreen.EvergreenModel) -> None:
    with pytest.raises(evergreen.InputError, match="there are 2 texts and 1 labels"):
        model.score(TEXTS[:2], ["a"])
    with pytest.raises(evergreen.InputError, match="there are none"):
        model.score([], [])
    with pytest.raises(evergreen.InputError, match=r"1 of 2 are missing; the first: label 1"):
        model.score(TEXTS[:2], [model.labels[0], None])


def test_threads_and_an_event_loop_get_the_same_answers(model: evergreen.EvergreenModel) -> None:
    alone = model.predict_proba(TEXTS)

    async def in_a_notebook() -> Any:
        return model.predict_proba(TEXTS)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.predict_proba, [TEXTS] * 8))
    for shares in (*together, asyncio.run(in_a_notebook())):
        np.testing.assert_array_equal(shares, alone)


def test_a_pickle_holds_the_whole_model_and_opens_in_a_spawned_process(package: Path, elsewhere: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    evergreen.load(package).save(copied)
    model = evergreen.load(copied)
    expected = model.predict_proba(TEXTS[:5])
    stored = pickle.dumps(model)
    for path in sorted(copied.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    np.testing.assert_array_equal(pickle.loads(stored).predict_proba(TEXTS[:5]), expected)  # noqa: S301
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        opened = pickle.loads(stored)  # noqa: S301
        np.testing.assert_array_equal(pool.apply(opened.predict_proba, (TEXTS[:5],)), expected)


def test_scikit_learn_takes_it_for_a_trained_classifier(model: evergreen.EvergreenModel) -> None:
    assert clone(model) is model
    assert is_classifier(model)
    labels = model.predict(TEXTS[:5])
    assert get_scorer("accuracy")(model, TEXTS[:5], labels) == 1.0
    assert get_scorer("f1_macro")(model, TEXTS[:5], labels) == 1.0
    assert ConfusionMatrixDisplay.from_estimator(model, TEXTS[:5], labels).confusion_matrix.trace() == 5


def test_a_saved_model_is_loaded_as_it_was_and_never_replaced_unasked(model: evergreen.EvergreenModel, elsewhere: Path) -> None:
    folder = model.save("models/mine")
    np.testing.assert_array_equal(evergreen.load("models/mine").predict_proba(TEXTS[:5]), model.predict_proba(TEXTS[:5]))
    with pytest.raises(evergreen.InputError, match="the folder exists"):
        model.save(folder)
    model.save(folder, overwrite=True)
    (elsewhere / "other").mkdir()
    (elsewhere / "other" / "manifest.json").write_text("{}")  # of a web page
    with pytest.raises(evergreen.InputError, match="the folder exists"):
        model.save("other", overwrite=True)
    assert [path.name for path in (elsewhere / "models").iterdir()] == ["mine"]


def test_a_name_that_nothing_has_is_answered_with_those_that_exist(package: Path, elsewhere: Path) -> None:
    with pytest.raises(evergreen.InputError, match=r"no published version, no role .*\n.*make repro"):
        evergreen.load("chmapion")
    with pytest.raises(evergreen.InputError, match="this folder holds no model"):
        evergreen.load(elsewhere)
    with pytest.raises(evergreen.InputError, match="a float names no model"):
        evergreen.load(1.5)  # type: ignore[arg-type]


def test_a_folder_of_artifacts_is_the_package_in_it(package: Path, elsewhere: Path) -> None:
    (elsewhere / "artifacts").mkdir()
    evergreen.load(package).save(elsewhere / "artifacts/package")
    model = evergreen.load("artifacts")
    assert model.version is None
    assert repr(model).startswith("<EvergreenModel artifacts/package: 20 labels, ")
    assert model.scores is None


def test_a_damaged_package_is_refused(package: Path, elsewhere: Path) -> None:
    folder = evergreen.load(package).save("mine")
    (folder / "1/model.onnx").write_bytes(b"else")
    with pytest.raises(evergreen.RefusedError, match="does not have the SHA-256 of the manifest"):
        evergreen.load(folder)


def test_a_training_is_not_brought_to_the_pipeline_without_its_rows(model: evergreen.EvergreenModel) -> None:
    with pytest.raises(evergreen.InputError, match="does not hold the rows"):
        model.to_pipeline("data.jsonl")
