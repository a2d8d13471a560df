"""The models of a made version answer again: the frozen control with its encoder, and the packaged model in fp32."""

import json
import shutil
from pathlib import Path

import pytest

from monitoring.flywheel.disagreement.measure import measure_disagreement
from monitoring.flywheel.disagreement.pairs import LoggedAnswer
from monitoring.flywheel.disagreement.second_answers import ask, control_model, control_on_reference, find_control, fp32_model
from pipeline.card.frozen_control import FrozenControl
from pipeline.data.records import read_examples
from pipeline.params import Params
from pipeline.row_predictions import referenced_predictions
from serving.prediction import Prediction, split_outputs
from serving.prediction_log.segments import hash_text
from serving.release.manifest import model_name, repository
from serving.release.offline import open_package
from serving.release.release_table import add_release, promote
from serving.release.signature import sign
from serving.release.signing_keys import signing_key
from state.database import open_state
from tests.conftest import Project
from tests.monitoring.flywheel.disagreement.answers import AT, answer, write


@pytest.fixture(scope="module")
def home(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose champion is the made package."""
    home = tmp_path_factory.mktemp("home")
    folder = repository(home) / model_name(1)
    shutil.copytree(made / "artifacts/package", folder)
    sign(folder, folder.name, signing_key(home))
    with open_state(home) as engine, engine.begin() as connection:
        add_release(connection, 1, "a" * 64)
        promote(connection, 1)
    return home


@pytest.fixture(scope="module")
def asked_rows(made: Project) -> list[LoggedAnswer]:
    """Return the test rows as if they had been asked."""
    rows = read_examples(made / "artifacts/split/test.parquet")
    return [answer(n, "refund", text=row.text) for n, row in enumerate(rows)]


@pytest.fixture(scope="module")
def control(home: Path) -> FrozenControl:
    found = find_control(home, 1)
    assert found is not None
    return found


def test_the_control_answers_as_it_did_in_the_pipeline(
    made: Project, control: FrozenControl, asked_rows: list[LoggedAnswer]
) -> None:
    asked = ask("control", control_model(control, made.params), asked_rows)
    predicted = json.loads((made / "artifacts/control/predicted.json").read_text())["labels"]
    assert [asked[row.text_hash].label for row in asked_rows] == predicted


def test_the_package_answers_in_fp32_as_it_did_in_the_pipeline(made: Project, home: Path, asked_rows: list[LoggedAnswer]) -> None:
    asked = ask("fp32", fp32_model(repository(home) / model_name(1)), asked_rows)
    rows = referenced_predictions(made / "artifacts/reference/reference.npz")
    assert [asked[row.text_hash].label for row in asked_rows] == [row.predicted for row in rows]


def test_another_base_is_refused(made: Project, control: FrozenControl, asked_rows: list[LoggedAnswer]) -> None:
    other = control._replace(weights_sha256="0" * 64)
    assert ask("control", control_model(other, made.params), asked_rows[:1]) == {}


def test_test_rows_as_traffic_show_no_excess(made: Project, home: Path, params: Params, control: FrozenControl) -> None:
    rows = read_examples(made / "artifacts/split/test.parquet")
    opened = open_package(repository(home) / model_name(1), params).classifier
    outputs = split_outputs(opened.predict([row.text for row in rows]), opened.labels)
    asked = [
        Prediction(
            time=AT + n, request_id="r", id=f"p{n}", unit=None, text=row.text, text_hash=hash_text(row.text), version=1,
            role="champion", latency_ms=5.0, cache_hit=False, **output._asdict(),
        )
        for n, (row, output) in enumerate(zip(rows, outputs, strict=True))
    ]  # fmt: skip
    write(home, params, asked)
    (made_,) = measure_disagreement(home, made.params, AT + 3600)
    row = made_.measurement
    assert row.compared == row.repeated == row.reference_rows == len(rows)
    assert (row.reference_rows, row.reference_differing) == control_on_reference(repository(home) / model_name(1), control)
    assert 0 < row.differing == row.reference_differing  # the two models do differ
    assert (row.unstable, row.share) == (0, 0.0)
    assert row.lower < 0 < row.upper
