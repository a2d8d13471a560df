"""The Triton door: asks a server, local or remote, and with its key loads, drains and unloads models.

It knows tensor names and the v2 protocols, and nothing of releases and routing.
"""

import os
import re
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from pipeline.errors import ToolError
from pipeline.params import Serve
from serving.triton.http_pool import MAX_AGE_S, HttpPool, HttpResponse

ADMIN_HEADER = "evergreen-admin"
GRPC_ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_HEADER}"
ADMIN_TIMEOUT_S = 600.0
BATCH_TEXTS = 64  # in one call; a model of ours takes no more by default
OUTPUTS = ("label", "probabilities", "sketch", "pieces", "pieces_per_word")
WANTED = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]


class TritonError(Exception):
    """The server could not answer: gone, starting, overloaded or too slow."""


class UnknownModelError(TritonError):
    """The server is there, but this model is not (any more)."""


class ModelOutputs(NamedTuple):
    """What Triton said of N texts."""

    labels: list[str]
    probabilities: NDArray[np.float32]  # (N, classes)
    sketch: NDArray[np.float16]  # (N, sketch_size)
    pieces: NDArray[np.int32]  # (N,)
    pieces_per_word: NDArray[np.float32]  # (N,)


def server_settings(serve: Serve) -> Serve:
    """The server of params, or the one that `EVERGREEN_TRITON_HOST` names."""
    return serve.model_copy(update={"host": os.environ.get("EVERGREEN_TRITON_HOST", serve.host)})


def key_file(home: Path, serve: Serve) -> Path:
    """Where the key of the server's administration lies: `EVERGREEN_TRITON_KEY_FILE`, by default in the home of state."""
    return Path(os.environ.get("EVERGREEN_TRITON_KEY_FILE", home / "triton" / f"admin-{serve.http_port}.key"))


def is_alive(serve: Serve) -> bool:
    """Whether a server answers at this address; one that is still loading its first models does not yet."""
    try:
        with _http(serve) as client:
            return bool(client.is_server_live())
    except (OSError, triton_http.InferenceServerException):
        return False


def is_ready(serve: Serve, models: Sequence[str]) -> bool:
    """Whether a server answers at this address and has these models ready."""
    try:
        with _http(serve) as client:
            return bool(client.is_server_live()) and all(client.is_model_ready(model) for model in models)
    except (OSError, triton_http.InferenceServerException):
        return False


def model_parameters(serve: Serve, model: str) -> dict[str, str] | None:
    """The parameters of a ready model's config.pbtxt (`model_digest`, `labels`, …), None when it is not ready."""
    if not is_ready(serve, [model]):
        return None
    with _http(serve) as client:
        found = client.get_model_config(model).get("parameters", {})
    return {name: str(value.get("string_value", "")) for name, value in found.items()}


def load(serve: Serve, model: str, key: str) -> None:
    """Load and warm a model of the repository; returns when it is ready, raises `ToolError` with the server's words."""
    _administer(serve, "load", model, key)


def unload(serve: Serve, model: str, key: str) -> None:
    """Unload a model; what it has begun is finished."""
    _administer(serve, "unload", model, key)


def ready_models(serve: Serve, key: str) -> list[str]:
    """Names of the models that are ready."""
    try:
        with _grpc(serve) as client:
            index = client.get_model_repository_index(headers={GRPC_ADMIN_HEADER: key}, client_timeout=ADMIN_TIMEOUT_S)
    except triton_grpc.InferenceServerException as error:
        raise _not_done(serve, "list its models", error) from None
    return [entry.name for entry in index.models if entry.state == "READY"]


def drain(serve: Serve, model: str, quiet_s: float, timeout_s: float) -> bool:
    """Wait until nobody has asked the model for `quiet_s` and nothing waits; False when that does not come within `timeout_s`."""
    deadline, since, last = time.monotonic() + timeout_s, time.monotonic(), -1.0
    while time.monotonic() < deadline:
        asked, waiting = _traffic(serve, model)
        if asked != last or waiting:
            since, last = time.monotonic(), asked
        elif time.monotonic() - since >= quiet_s:
            return True
        time.sleep(min(0.05, quiet_s))
    return False


def infer_http(serve: Serve, model: str, texts: Sequence[str]) -> ModelOutputs:
    """Ask over HTTP; raises `TritonError` when the server refuses."""
    tensor = triton_http.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(_as_bytes(texts))
    wanted = [triton_http.InferRequestedOutput(name) for name in OUTPUTS]
    try:
        with _http(serve) as client:
            return _answers(client.infer(model, [tensor], outputs=wanted))
    except (OSError, triton_http.InferenceServerException) as error:
        raise TritonError(str(error)) from None


def infer_grpc(serve: Serve, model: str, texts: Sequence[str]) -> ModelOutputs:
    """Ask over gRPC; raises `TritonError` when the server refuses."""
    tensor = triton_grpc.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(_as_bytes(texts))
    wanted = [triton_grpc.InferRequestedOutput(name) for name in OUTPUTS]
    try:
        with _grpc(serve) as client:
            return _answers(client.infer(model, [tensor], outputs=wanted, client_timeout=60.0))
    except triton_grpc.InferenceServerException as error:
        raise TritonError(str(error)) from None


def predict_labels(serve: Serve, model: str, texts: Sequence[str]) -> list[tuple[str, float]]:
    """Label and confidence of any number of texts, a batch at a time."""
    found: list[tuple[str, float]] = []
    for start in range(0, len(texts), BATCH_TEXTS):
        answers = infer_grpc(serve, model, texts[start : start + BATCH_TEXTS])
        found += [(label, float(row.max())) for label, row in zip(answers.labels, answers.probabilities, strict=True)]
    return found


class Connection:
    """The gateway's way to a server, for one event loop; many calls at a time."""

    def __init__(self, serve: Serve, age_s: float = MAX_AGE_S) -> None:
        self._wire = HttpPool(serve.host, serve.http_port, age_s)
        self._host = f"{serve.host}:{serve.http_port}"

    async def ask(self, model: str, texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        """Answers in the order of the texts; raises `UnknownModelError`, `TritonError`."""
        tensor = serialize_byte_tensor(_as_bytes(texts)).item()
        head = orjson.dumps(
            {
                "inputs": [
                    {
                        "name": "text",
                        "datatype": "BYTES",
                        "shape": [len(texts), 1],
                        "parameters": {"binary_data_size": len(tensor)},
                    }
                ],
                "outputs": WANTED,
            }
        )
        reply = await self._send("POST", f"/v2/models/{model}/infer", timeout_s, head + tensor, json_bytes=len(head))
        return _read_answers(reply.body, reply.json_bytes)

    async def is_ready(self, model: str) -> bool:
        """Whether the model answers now."""
        try:
            await self._send("GET", f"/v2/models/{model}/ready", 1.0)
        except TritonError:
            return False
        return True

    async def labels(self, model: str) -> tuple[str, ...]:
        """The classes of a ready model in the order of its probabilities; raises as `ask` does."""
        reply = await self._send("GET", f"/v2/models/{model}/config", 5.0)
        return tuple(orjson.loads(orjson.loads(reply.body)["parameters"]["labels"]["string_value"]))

    async def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    async def _send(self, method: str, path: str, timeout_s: float, body: bytes = b"", json_bytes: int = 0) -> HttpResponse:
        """A 200, or the error that it stands for."""
        length = f"Inference-Header-Content-Length: {json_bytes}\r\n" if json_bytes else ""
        front = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n{length}\r\n"
        try:
            reply = await self._wire.ask(front.encode() + body, timeout_s)
        except OSError as error:  # a TimeoutError is one
            raise TritonError(f"{self._host}: {error or 'no answer in time'}") from None
        if reply.status != 200:
            said = reply.body.decode("utf-8", "replace")
            raise (UnknownModelError if _is_unknown(reply.status, said) else TritonError)(f"{reply.status}: {said[:300]}")
        return reply


def _is_unknown(status: int, said: str) -> bool:
    return status == 404 or "unknown model" in said or "is not ready" in said or "has no available versions" in said


def _read_answers(body: bytes, json_bytes: int) -> ModelOutputs:
    """The tensors of a v2 answer: JSON first, which names them in order, then their bytes."""
    at, raw = json_bytes, {}
    for output in orjson.loads(body[:json_bytes])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        raw[output["name"]] = body[at : at + size]
        at += size
    labels = [cell.decode("utf-8") for cell in deserialize_bytes_tensor(raw["label"])]
    return ModelOutputs(
        labels,
        np.frombuffer(raw["probabilities"], np.float32).reshape(len(labels), -1),
        np.frombuffer(raw["sketch"], np.float16).reshape(len(labels), -1),
        np.frombuffer(raw["pieces"], np.int32),
        np.frombuffer(raw["pieces_per_word"], np.float32),
    )


def _http(serve: Serve) -> Any:
    return triton_http.InferenceServerClient(f"{serve.host}:{serve.http_port}", network_timeout=60.0)


def _grpc(serve: Serve) -> Any:
    return triton_grpc.InferenceServerClient(f"{serve.host}:{serve.grpc_port}")


def _administer(serve: Serve, what: str, model: str, key: str) -> None:
    """Over gRPC: a thread of Triton's HTTP serves many connections, and while one of them loads a model the others wait."""
    try:
        with _grpc(serve) as client:
            getattr(client, f"{what}_model")(model, headers={GRPC_ADMIN_HEADER: key}, client_timeout=ADMIN_TIMEOUT_S)
    except triton_grpc.InferenceServerException as error:
        raise _not_done(serve, f"{what} {model}", error) from None


def _not_done(serve: Serve, what: str, error: Exception) -> ToolError:
    where = f"{serve.host}:{serve.grpc_port}"
    if "restricted" in str(error):
        wrong = f"Triton did not {what}: our key is not the one of its administration"
        return ToolError(where, wrong, "name the file with its key: EVERGREEN_TRITON_KEY_FILE")
    return ToolError(where, f"Triton did not {what}: {error}", "read the server's log in live/triton/")


def _traffic(serve: Serve, model: str) -> tuple[float, float]:
    """How many requests the model has had, and how many wait, by the server's own metrics; (0, 0) when it does not tell."""
    try:
        with urllib.request.urlopen(f"http://{serve.host}:{serve.metrics_port}/metrics", timeout=5) as page:
            text = page.read().decode()
    except OSError:
        return 0.0, 0.0

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf'^{name}{{[^}}]*model="{model}"[^}}]*}} (\S+)$', text, re.MULTILINE))

    return total("nv_inference_request_success") + total("nv_inference_request_failure"), total(
        "nv_inference_pending_request_count"
    )


def _as_bytes(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([text.encode("utf-8") for text in texts], dtype=np.object_).reshape(-1, 1)


def _answers(result: Any) -> ModelOutputs:
    label, probabilities, sketch, pieces, pieces_per_word = (result.as_numpy(name) for name in OUTPUTS)
    return ModelOutputs(
        [cell.decode("utf-8") for cell in label.reshape(-1)],
        probabilities,
        sketch,
        pieces.reshape(-1),
        pieces_per_word.reshape(-1),
    )
