"""Measurements of a home with a real database, a signed version and segments as gateways write them."""

from pathlib import Path

import numpy as np
import pytest

from monitoring.flywheel.disagreement import second_answers
from monitoring.flywheel.disagreement.measure import measure_disagreement
from monitoring.flywheel.disagreement.store import CONTROL, newest_measurements
from monitoring.flywheel.disagreement.task import ModelAnswer
from pipeline.card.frozen_control import CONTROL as CONTROL_FILE
from pipeline.card.frozen_control import FrozenControl, save_control
from pipeline.data.records import write_json
from pipeline.params import Params
from pipeline.reference_profile import Reference, save_reference
from serving.release.manifest import LINEAGE, MANIFEST, describe_files, model_name, repository
from serving.release.release_table import add_release, promote
from serving.release.routing import set_routing
from serving.release.signature import sign
from serving.release.signing_keys import signing_key
from state.database import open_state
from tests.monitoring.flywheel.disagreement.answers import AT, LABELS, logged, shares, write

NOW = AT + 86_400
ROWS = 40  # of a reference; the control differs on the first ten


def publish(home: Path, version: int, *, differing: int = 10, has_control: bool = True) -> Path:
    """Write, sign and enter a version whose reference says `refund` throughout."""
    folder = repository(home) / model_name(version)
    folder.mkdir(parents=True)
    save_reference(folder / "reference.npz", reference("refund"))
    if has_control:
        predicted = np.array(["track"] * differing + ["refund"] * (ROWS - differing))
        ids = np.array([f"row{n}" for n in range(ROWS)])
        control = FrozenControl(
            np.array(LABELS), 9 * np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 1.0, "base", "main", "ab" * 32, 128, ids,
            predicted,
        )  # fmt: skip
        save_control(folder / CONTROL_FILE, control)
    write_json(folder / MANIFEST, describe_files(folder))
    write_json(folder / LINEAGE, {"version": version})
    sign(folder, folder.name, signing_key(home))
    with open_state(home) as engine, engine.begin() as connection:
        add_release(connection, version, str(version) * 64)
        if version == 1:
            promote(connection, version)
    return folder


def reference(label: str) -> Reference:
    probabilities = np.tile(shares(label), (ROWS, 1))
    return Reference(
        np.array([f"row{n}" for n in range(ROWS)]), np.array(LABELS), probabilities, np.zeros((ROWS, 8), np.float16),
        np.full(ROWS, 5, np.int32), np.ones(ROWS, np.float32), np.ones(ROWS, bool), np.arange(ROWS) < ROWS // 2,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home without a version. The encoder embeds a text by its first word, a label."""

    def embeddings(texts: list[str], _model: object, _batch: int) -> np.ndarray:
        return np.array([[float(text.startswith(label)) for label in LABELS] for text in texts], np.float32)

    monkeypatch.setattr("pipeline.network.frozen_encoder.frozen_embeddings", embeddings)
    return tmp_path


def fp32(label: str) -> object:
    """Return a model in place of the packaged one, which answers every text with this label."""
    return lambda _folder: lambda texts: [ModelAnswer(label, shares(label)) for _ in texts]


def traffic(differing: int, texts: int = 200) -> list[str]:
    return [f"{'track' if n < differing else 'refund'} number {n}" for n in range(texts)]


def test_the_control_is_compared_beyond_the_reference(home: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitoring.flywheel.disagreement.measure.fp32_model", fp32("refund"))
    publish(home, 1)
    write(home, params, [logged(n, "refund", text=text) for n, text in enumerate(traffic(120))])
    (made,) = measure_disagreement(home, params, NOW)
    row = made.measurement
    assert (row.version, row.other, row.compared, row.differing) == (1, CONTROL, 200, 120)
    assert (row.repeated, row.unstable, row.reference_rows, row.reference_differing) == (200, 0, 40, 10)
    assert (row.began_at, row.ended_at, row.measured_at) == (AT, AT + 199, NOW)
    assert row.share == pytest.approx(0.6 - 0.25)
    assert 0.1 < row.lower < row.share < row.upper < 0.6
    assert [pair.differs for pair in made.pairs] == [True] * 120 + [False] * 80
    with open_state(home) as engine, engine.connect() as connection:
        assert newest_measurements(connection, 1, since=NOW) == [row]
        assert newest_measurements(connection, 1, since=NOW + 1) == newest_measurements(connection, 2, since=0) == []


def test_traffic_like_the_reference_shows_no_excess(home: Path, params: Params) -> None:
    publish(home, 1)
    write(home, params, [logged(n, "refund", text=text) for n, text in enumerate(traffic(50))])
    (made,) = measure_disagreement(home, params, NOW)
    assert made.measurement.lower < 0 < made.measurement.upper
    assert made.measurement.share == pytest.approx(0.0)
    assert made.measurement.repeated == 0  # the package of this test has no graph, so nothing answers again


def test_what_the_champion_contradicts_itself_on_is_subtracted(
    home: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(home, 1)
    rows = [logged(n, "track" if n < 20 else "refund", text=text) for n, text in enumerate(traffic(0))]
    write(home, params, rows)
    monkeypatch.setattr("monitoring.flywheel.disagreement.measure.fp32_model", fp32("refund"))
    (made,) = measure_disagreement(home, params, NOW)
    assert (made.measurement.differing, made.measurement.unstable) == (20, 20)
    assert made.measurement.share == pytest.approx(0.1 - 0.1 - 0.25)


def test_only_the_newest_texts_are_asked(home: Path, params: Params) -> None:
    publish(home, 1)
    write(home, params, [logged(n, "refund", text=text) for n, text in enumerate(traffic(150))])
    few = params.model_copy(update={"flywheel": params.flywheel.model_copy(update={"compared_texts": 60})})
    (made,) = measure_disagreement(home, few, NOW)
    assert (made.measurement.compared, made.measurement.differing) == (60, 10)


def test_a_challenger_is_compared_through_its_copies(home: Path, params: Params) -> None:
    publish(home, 1, has_control=False)
    save_reference(publish(home, 2, has_control=False) / "reference.npz", reference("track"))  # differs on every row
    with open_state(home) as engine, engine.begin() as connection:
        set_routing(connection, challenger_weight=0.0, shadow_share=1.0)
    rows = [logged(n, "refund") for n in range(50)]
    copies = [row._replace(version=2, role="shadow", label="track" if n < 30 else "refund") for n, row in enumerate(rows[:45])]
    write(home, params, [*rows, *copies[:40], *copies[41:]])
    (made,) = measure_disagreement(home, params, NOW)
    row = made.measurement
    assert (row.other, row.compared, row.differing, row.failed) == ("2", 44, 30, 1)
    assert (row.reference_rows, row.reference_differing) == (40, 40)
    assert row.share == pytest.approx(30 / 44 - 1)


def test_a_version_of_an_earlier_release_has_no_control(home: Path, params: Params) -> None:
    publish(home, 1, has_control=False)
    write(home, params, [logged(n, "refund") for n in range(9)])
    assert measure_disagreement(home, params, NOW) == []


def test_an_altered_control_is_not_asked(home: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    folder = publish(home, 1)
    write(home, params, [logged(n, "refund") for n in range(9)])
    with (folder / CONTROL_FILE).open("ab") as file:
        file.write(b"x")
    assert measure_disagreement(home, params, NOW) == []
    assert "SHA-256" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["no version", "no traffic", "no texts", "no torch"])
def test_where_nothing_can_be_compared_nothing_is_stored(
    home: Path, params: Params, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing != "no version":
        publish(home, 1)
    if missing == "no texts":
        params = params.model_copy(update={"log": params.log.model_copy(update={"text": "hash"})})
    if missing == "no torch":
        monkeypatch.setattr("pipeline.network.frozen_encoder.frozen_embeddings", no_torch)
    if missing != "no traffic":
        write(home, params, [logged(n, "refund") for n in range(9)])
    assert measure_disagreement(home, params, NOW) == []
    with open_state(home) as engine, engine.connect() as connection:
        assert newest_measurements(connection, 1, since=0) == []


def no_torch(*_args: object) -> None:
    raise ImportError("No module named 'torch'")


def test_a_text_without_words_is_not_asked() -> None:
    assert second_answers.ask("control", no_torch, []) == {}  # type: ignore[arg-type]
