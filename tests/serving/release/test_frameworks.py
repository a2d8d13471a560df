"""ONNX, PyTorch and scikit-learn models in one real server; a broken fourth model does not stop them."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipeline.data.records import read_examples
from pipeline.errors import ToolError
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.sessions import in_padded_batches
from pipeline.stages.control import control
from serving.release.frameworks import SESSIONS, framework_names, package_framework
from serving.release.model_repository import BACKEND_SOURCE
from serving.triton import client as triton
from serving.triton import server as triton_server
from tests.conftest import Project

NAMES = framework_names(1)
TEXTS = ["card declined", "my parcel has not come " * 9, "the kettle arrived broken", "I want to send this back, please"]


@pytest.fixture(scope="module")
def written(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of `pipeline.frameworks` for the small project."""
    out = tmp_path_factory.mktemp("frameworks") / "made"
    sources = [
        f"--{name}=artifacts/{folder}" for name, folder in (("model", "model"), ("split", "split"), ("exported", "export"))
    ]
    made.must("python", "-m", "pipeline.frameworks", *sources, f"--out={out}")
    return out


@pytest.fixture(scope="module")
def server(made: Project, written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton_server.Server]:
    """Yield one server with the three models, and a fourth in its repository that cannot load."""
    home = tmp_path_factory.mktemp("side-by-side")
    repository = home / "models"
    shutil.copytree(made / "artifacts/package", repository / "intent-1")
    for kind, name in NAMES.items():
        exported, session = (made / "artifacts" / folder for folder in ("export", "session"))
        package_framework(written / kind, exported, session, repository / name, made.params.package)
    shutil.copytree(made / "artifacts/package", repository / "intent-2")
    for graph in (repository / "intent-2/1").glob("*.onnx"):
        graph.write_bytes(b"not a graph")
    serve = triton_server.with_free_ports(made.params.serve)
    with triton_server.run_server(repository, ["intent-1", *NAMES.values()], serve, home) as server:
        yield server


def offline(folder: Path, sessions: ModuleType | None = None) -> Classifier:
    session = in_padded_batches(sessions.open_session(folder, 1, "cpu"), 2048) if sessions else None
    return Classifier(folder, session=session, threads=1)


def test_three_frameworks_under_concurrent_load_give_their_offline_answers(
    made: Project, written: Path, server: triton_server.Server
) -> None:
    from serving.backend import control_session, torch_session

    expected = {
        "intent-1": offline(made / "artifacts/export").predict(TEXTS),
        NAMES["torch"]: offline(written / "torch", torch_session).predict(TEXTS),
        NAMES["control"]: offline(written / "control", control_session).predict(TEXTS),
    }
    with ThreadPoolExecutor(12) as pool:
        answers = [(model, pool.submit(triton.infer_grpc, server.serve, model, TEXTS)) for _ in range(8) for model in expected]
        for model, answer in answers:
            assert answer.result().labels == expected[model].labels
            assert answer.result().probabilities == pytest.approx(expected[model].probabilities, abs=1e-4)


def test_pytorch_answers_as_onnx_does(server: triton_server.Server) -> None:
    onnx, torch = (triton.infer_grpc(server.serve, model, TEXTS) for model in ("intent-1", NAMES["torch"]))
    assert torch.labels == onnx.labels
    assert torch.probabilities == pytest.approx(onnx.probabilities, abs=1e-4)
    assert np.abs(torch.sketch.astype(np.float32) - onnx.sketch.astype(np.float32)).max() < 1e-2


def test_the_control_gives_the_same_answers_in_triton_as_in_the_evaluation(made: Project, server: triton_server.Server) -> None:
    train, test = (read_examples(made / f"artifacts/split/{side}.parquet") for side in ("train", "test"))
    served = triton.predict_labels(server.serve, NAMES["control"], [row.text for row in test])
    assert [label for label, _ in served] == control(train, [], test, made.params.model, made.params.evaluate).predicted.labels


def test_a_broken_model_is_an_error_and_does_not_stop_others(made: Project, server: triton_server.Server) -> None:
    key = triton.key_file(server.log.parents[1], server.serve).read_text()
    before = triton.infer_grpc(server.serve, "intent-1", TEXTS)
    with pytest.raises(ToolError, match="did not load intent-2"):
        triton.load(server.serve, "intent-2", key)
    for model in ("intent-1", *NAMES.values()):
        assert triton.is_ready(server.serve, [model])
    assert triton.infer_grpc(server.serve, "intent-1", TEXTS).labels == before.labels


def test_every_framework_has_a_session_of_its_own() -> None:
    assert {name: (BACKEND_SOURCE.parent / file).is_file() for name, file in SESSIONS.items()} == {"torch": True, "control": True}
