"""The real server from the wheel: it starts, answers as PyTorch does over both protocols, protects its admin API, and ends."""

import asyncio
import json
import socket
import stat
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http

from pipeline.data.records import read_json
from pipeline.errors import ToolError
from pipeline.metrics import softmax
from pipeline.network.inference import infer_in_batches
from pipeline.network.trained_model import load_trained
from pipeline.params import Serve
from pipeline.runtime.model_files import model_digest
from pipeline.runtime.outputs import ModelOutputs
from pipeline.runtime.pieces import to_pieces
from pipeline.runtime.text import clean
from serving.release.manifest import MANIFEST, repository
from serving.release.publish import publish
from serving.release.signature import read_signed
from serving.release.signing_keys import trusted_folder, trusted_keys
from serving.triton import client as triton
from serving.triton import server as triton_server
from serving.triton.server import SHARED_MEMORY
from tests.conftest import Project
from tests.serving.triton.kserve import infer_kserve

Infer = Callable[[Serve, str, list[str]], ModelOutputs]


class Served:
    """A running server and the project whose model it serves."""

    def __init__(self, server: triton_server.Server, project: Project, home: Path) -> None:
        self.server, self.serve, self.project, self.home = server, server.serve, project, home


@pytest.fixture(scope="module")
def served(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        publish(made / "artifacts/package", made / "dvc.lock", "evergreen", home)
    with triton_server.run_server(
        repository(home), ["intent-1"], triton_server.with_free_ports(made.params.serve), home
    ) as server:
        yield Served(server, made, home)


def mixed_texts() -> list[str]:
    """Return a hundred texts from one word to several hundred, some of them odd."""
    rng = np.random.default_rng(5)
    words = [
        "where",
        "is",
        "my",
        "parcel",
        "kettle",
        "leaks",
        "refund",
        "please",
        "card",
        "declined",
        "return",
        "zip",
        "höher",
        "日本",
        "😀",
    ]
    texts = [" ".join(rng.choice(words, size=size)) for size in rng.choice([1, 2, 5, 9, 20, 60, 300], size=96)]
    return [*texts, "?", "\u200b spaced\tout \r\n", "e\u0301 and é", "x" * 3000]


async def _infer_once(serve: Serve, model: str, texts: list[str]) -> ModelOutputs:
    connection = triton.Connection(serve)
    try:
        return await connection.infer(model, texts, 60.0)
    finally:
        await connection.close()


def infer_as_gateway(serve: Serve, model: str, texts: list[str]) -> ModelOutputs:
    return asyncio.run(_infer_once(serve, model, texts))


@pytest.mark.parametrize("infer", [infer_kserve, infer_as_gateway, triton.infer_grpc])
def test_a_hundred_texts_of_mixed_length_get_the_answers_of_pytorch(served: Served, infer: Infer) -> None:
    texts = mixed_texts()
    model = served.project.params.model
    trained = load_trained(served.project / "artifacts/model", model)
    temperature = json.loads((served.project / "artifacts/evaluation/temperature.json").read_text())["temperature"]
    pieces = to_pieces(trained.tokenizer, [clean(text) for text in texts])
    logits = infer_in_batches(trained.classifier.forward, pieces, batch_size=16, precision="fp32").numpy()
    parts = [infer(served.serve, "intent-1", texts[i : i + 50]) for i in (0, 50)]
    assert [label for part in parts for label in part.labels] == [trained.labels[i] for i in logits.argmax(axis=1)]
    assert np.concatenate([part.probabilities for part in parts]) == pytest.approx(softmax(logits / temperature), abs=1e-4)
    assert np.concatenate([part.pieces for part in parts]).tolist() == [len(ids) for ids in pieces]
    assert parts[0].sketch.shape == (50, model.sketch_size)
    assert parts[0].sketch.dtype == np.float16


def test_texts_sent_one_by_one_get_the_same_answers_as_together(served: Served) -> None:
    texts = mixed_texts()[:8]
    together = triton.infer_grpc(served.serve, "intent-1", texts)
    alone = [triton.infer_grpc(served.serve, "intent-1", [text]) for text in texts]
    assert [outputs.labels[0] for outputs in alone] == together.labels
    assert np.concatenate([outputs.probabilities for outputs in alone]) == pytest.approx(together.probabilities, abs=1e-4)


def test_a_text_that_is_not_utf8_is_refused_and_the_next_one_answered(served: Served) -> None:
    tensor = tritonclient.grpc.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"\xff\xfe"]], dtype=np.object_))
    refused = pytest.raises(tritonclient.grpc.InferenceServerException, match="not UTF-8")
    with tritonclient.grpc.InferenceServerClient(f"{served.serve.host}:{served.serve.grpc_port}") as client, refused:
        client.infer("intent-1", [tensor])
    assert triton.infer_grpc(served.serve, "intent-1", ["card declined"]).labels == ["payment_failed"]


def ask_for(serve: Serve, text: str, *outputs: str) -> dict[str, Any]:
    """Return the outputs that a KServe client gets when it asks for these alone."""
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}).encode()
    with urllib.request.urlopen(f"http://{serve.host}:{serve.http_port}/v2/models/intent-1/infer", body) as answer:
        return {output["name"]: output["data"] for output in json.load(answer)["outputs"]}


@pytest.mark.parametrize("first", ["label", "probabilities"])
def test_an_answer_does_not_depend_on_what_was_asked_before(served: Served, first: str) -> None:
    text = f"a text that no other test sends, asked first for its {first}"
    part = ask_for(served.serve, text, first)
    whole = ask_for(served.serve, text, "label", "probabilities", "pieces")
    assert set(whole) == {"label", "probabilities", "pieces"}
    assert whole[first] == pytest.approx(part[first]) if first == "probabilities" else whole[first] == part[first]
    assert triton.infer_grpc(served.serve, "intent-1", [text]).labels == whole["label"]


@pytest.mark.parametrize("header", [b"", b"evergreen-admin: %s\r\n", b"closed: closed\r\n", b"closed\n: closed\n\r\n"])
def test_no_http_request_administers_the_server(served: Served, header: bytes) -> None:
    key = served.server.admin_key.encode()
    head = b"POST /v2/repository/models/intent-1/unload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
    with socket.create_connection((served.serve.host, served.serve.http_port), timeout=10) as connection:
        connection.sendall(head + (header % key if b"%s" in header else header) + b"\r\n{}")
        assert not connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert triton.is_ready(served.serve, ["intent-1"])


def test_only_the_owner_can_read_the_admin_key_and_what_goes_to_the_models(served: Served) -> None:
    arguments = Path(f"/proc/{served.server.process.pid}/cmdline").read_bytes()
    assert b"--http-port" in arguments
    assert served.server.admin_key.encode() not in arguments
    assert triton.ready_models(served.serve, served.server.admin_key) == ["intent-1"]
    files = [path for path in SHARED_MEMORY.iterdir() if f"-{served.serve.http_port}-" in path.name]
    assert files
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * len(files)


def test_a_version_that_is_served_still_holds_exactly_what_was_signed(served: Served) -> None:
    folder = repository(served.home) / "intent-1"
    assert read_signed(folder, trusted_keys(trusted_folder(served.home))) == read_json(folder / MANIFEST, "the manifest")


SLOW = """
import time
class TritonPythonModel:
    def initialize(self, args):
        time.sleep(3.0)
    def execute(self, requests):
        return []
"""
CONFIG = 'backend: "python" input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }'


def test_no_caller_waits_while_a_model_is_loaded(served: Served) -> None:
    folder = repository(served.home) / "slow"
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(SLOW)
    (folder / "config.pbtxt").write_text(CONFIG)
    waits: list[float] = []

    async def infer_on(connection: triton.Connection, until: asyncio.Future[None]) -> None:
        while not until.done():
            begun = time.monotonic()
            await connection.infer("intent-1", [f"where is it since {begun}"], 10.0)
            waits.append(time.monotonic() - begun)

    async def load_under_traffic() -> None:
        connection = triton.Connection(served.serve)
        loading = asyncio.ensure_future(asyncio.to_thread(triton.load, served.serve, "slow", served.server.admin_key))
        await asyncio.gather(loading, *(infer_on(connection, loading) for _ in range(24)))  # more than Triton's HTTP has threads
        await connection.close()

    asyncio.run(load_under_traffic())
    triton.unload(served.serve, "slow", served.server.admin_key)
    assert max(waits) < 1.5  # of the 3 seconds


def test_the_parameters_name_the_model(served: Served) -> None:
    model_parameters = triton.model_parameters(served.serve, "intent-1")
    assert model_parameters is not None
    assert model_parameters["model_digest"] == model_digest(served.project / "artifacts/export")
    assert triton.model_parameters(served.serve, "intent-2") is None


def test_it_listens_on_loopback_only(served: Served) -> None:
    listening = {
        c.laddr.ip.removeprefix("::ffff:")
        for c in psutil.Process(served.server.process.pid).net_connections()
        if c.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_taken_port_is_an_error_before_the_server_starts(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=rf"{served.serve.http_port}.*cannot be used"):
        triton_server.start_server(tmp_path, [], served.serve, tmp_path)


def test_a_model_that_cannot_load_ends_with_the_servers_output_and_no_process(made: Project, tmp_path: Path) -> None:
    broken = tmp_path / "models" / "intent-1"
    (broken / "1").mkdir(parents=True)
    (broken / "config.pbtxt").write_text((made / "artifacts/package/config.pbtxt").read_text())
    (broken / "1" / "model.py").write_text("raise RuntimeError('no such luck')\n")
    (broken / "labels.txt").write_text("a\n")
    with (
        pytest.raises(ToolError, match="no such luck"),
        triton_server.run_server(broken.parent, ["intent-1"], triton_server.with_free_ports(made.params.serve), tmp_path),
    ):
        raise AssertionError("it must not become ready")
    command_lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in command_lines if str(broken.parent) in line]
