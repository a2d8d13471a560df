"""The client of a Triton server, local or remote: inference, and with the server's key loading and unloading of models.

Knows tensor names and the v2 protocols, and nothing of releases and routing.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from pipeline.abstention import NEVER, Abstention, parse_abstention
from pipeline.errors import ToolError
from pipeline.params import Serve
from pipeline.runtime.outputs import ModelOutputs
from serving.triton.http_pool import MAX_AGE_S, HttpPool, HttpResponse
from serving.triton.model_metrics import model_traffic

ADMIN_HEADER = "evergreen-admin"
GRPC_ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_HEADER}"
ADMIN_TIMEOUT_S = 600.0
ANSWERS_WITHIN_S = 60.0  # over HTTP, unless the caller has less time
MODEL_FAILED = "the model failed: "  # begins the message of serving/backend/model.py
BATCH_TEXTS = 64  # in one call; `max_batch_size` of our models by default
OUTPUTS = ("label", "probabilities", "sketch", "pieces", "pieces_per_word")
REQUESTED = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]


class TritonError(ToolError):
    """The server cannot answer: it is gone, starting, overloaded or too slow."""

    def __init__(self, what: str) -> None:
        super().__init__("Triton", what, "see whether it runs (make serve) and what its log says")


class ModelFailedError(TritonError):
    """The model failed on these texts; on others it may not."""


class UnknownModelError(TritonError):
    """The server runs, but has not loaded this model, or no longer."""


def server_settings(serve: Serve) -> Serve:
    """Return the server of params, at the host of `EVERGREEN_TRITON_HOST` when that is set."""
    return serve.model_copy(update={"host": os.environ.get("EVERGREEN_TRITON_HOST", serve.host)})


def key_file(home: Path, serve: Serve) -> Path:
    """Return the file of the server's admin key: `EVERGREEN_TRITON_KEY_FILE`, by default in the home of state."""
    return Path(os.environ.get("EVERGREEN_TRITON_KEY_FILE", home / "triton" / f"admin-{serve.http_port}.key"))


def is_alive(serve: Serve, within_s: float = ANSWERS_WITHIN_S) -> bool:
    """Return whether the server answers, which it does not do while it loads its first models."""
    try:
        with _http(serve, within_s) as client:
            return bool(client.is_server_live())
    except (OSError, triton_http.InferenceServerException):
        return False


def is_ready(serve: Serve, models: Sequence[str], within_s: float = ANSWERS_WITHIN_S) -> bool:
    """Return whether the server answers and has these models ready."""
    try:
        with _http(serve, within_s) as client:
            return bool(client.is_server_live()) and all(client.is_model_ready(model) for model in models)
    except (OSError, triton_http.InferenceServerException):
        return False


def model_parameters(serve: Serve, model: str) -> dict[str, str] | None:
    """Return the parameters of a ready model's config.pbtxt (`model_digest`, `labels`, …), None when it is not ready."""
    if not is_ready(serve, [model]):
        return None
    with _http(serve) as client:
        config = client.get_model_config(model).get("parameters", {})
    return {name: str(value.get("string_value", "")) for name, value in config.items()}


def load(serve: Serve, model: str, key: str) -> None:
    """Load a model of the repository and return when it is warm and ready; raise `ToolError` with the server's message."""
    _administer(serve, "load", model, key)


def unload(serve: Serve, model: str, key: str) -> None:
    """Unload a model after it has finished its requests."""
    _administer(serve, "unload", model, key)


def ready_models(serve: Serve, key: str) -> list[str]:
    """Return the names of the models that are ready."""
    try:
        with _grpc(serve) as client:
            index = client.get_model_repository_index(headers={GRPC_ADMIN_HEADER: key}, client_timeout=ADMIN_TIMEOUT_S)
    except triton_grpc.InferenceServerException as error:
        raise _admin_error(serve, "list its models", error) from None
    return [entry.name for entry in index.models if entry.state == "READY"]


def drain(serve: Serve, model: str, quiet_s: float, timeout_s: float) -> bool:
    """Wait until the model has had no request for `quiet_s` and none is queued; return False after `timeout_s`."""
    deadline, since, last = time.monotonic() + timeout_s, time.monotonic(), -1.0
    while time.monotonic() < deadline:
        requests, queued = model_traffic(serve, model)
        if requests != last or queued:
            since, last = time.monotonic(), requests
        elif time.monotonic() - since >= quiet_s:
            return True
        time.sleep(min(0.05, quiet_s))
    return False


def infer_grpc(serve: Serve, model: str, texts: Sequence[str]) -> ModelOutputs:
    """Return the model's outputs over gRPC; raise `TritonError` when the server refuses."""
    tensor = triton_grpc.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(_as_bytes(texts))
    outputs = [triton_grpc.InferRequestedOutput(name) for name in OUTPUTS]
    try:
        with _grpc(serve) as client:
            return _outputs(client.infer(model, [tensor], outputs=outputs, client_timeout=60.0))
    except triton_grpc.InferenceServerException as error:
        raise TritonError(str(error)) from None


def predict_labels(serve: Serve, model: str, texts: Sequence[str]) -> list[tuple[str, float]]:
    """Return label and confidence of any number of texts, inferred batch by batch."""
    predictions: list[tuple[str, float]] = []
    for start in range(0, len(texts), BATCH_TEXTS):
        outputs = infer_grpc(serve, model, texts[start : start + BATCH_TEXTS])
        predictions += [(label, float(row.max())) for label, row in zip(outputs.labels, outputs.probabilities, strict=True)]
    return predictions


class ModelSchema(NamedTuple):
    """What the parameters of config.pbtxt say about a model's answers."""

    labels: tuple[str, ...]  # in the order of its probabilities
    abstention: Abstention = NEVER


class Connection:
    """The gateway's connection to a server, for one event loop and many calls at a time."""

    def __init__(self, serve: Serve, max_age_s: float = MAX_AGE_S) -> None:
        self._pool = HttpPool(serve.host, serve.http_port, max_age_s)
        self._host = f"{serve.host}:{serve.http_port}"

    async def infer(self, model: str, texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        """Return the outputs in the order of the texts; raise `UnknownModelError`, `TritonError`."""
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
                "outputs": REQUESTED,
            }
        )
        response = await self._send("POST", f"/v2/models/{model}/infer", timeout_s, head + tensor, json_bytes=len(head))
        return _read_outputs(response.body, response.json_bytes)

    async def is_ready(self, model: str) -> bool:
        """Return whether the model answers now."""
        try:
            await self._send("GET", f"/v2/models/{model}/ready", 1.0)
        except TritonError:
            return False
        return True

    async def schema(self, model: str) -> ModelSchema:
        """Return labels and abstention of a ready model; raise as `infer` does."""
        response = await self._send("GET", f"/v2/models/{model}/config", 5.0)
        parameters = orjson.loads(response.body)["parameters"]
        values = {name: orjson.loads(parameters[name]["string_value"]) for name in ("labels", "abstain") if name in parameters}
        return ModelSchema(tuple(values["labels"]), parse_abstention(values.get("abstain")))

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    async def _send(self, method: str, path: str, timeout_s: float, body: bytes = b"", json_bytes: int = 0) -> HttpResponse:
        """Return a 200; raise the error that any other status means."""
        length = f"Inference-Header-Content-Length: {json_bytes}\r\n" if json_bytes else ""
        front = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n{length}\r\n"
        try:
            response = await self._pool.request(front.encode() + body, timeout_s)
        except OSError as error:  # a TimeoutError is one
            raise TritonError(f"{self._host}: {error or 'no answer in time'}") from None
        if response.status != 200:
            message = response.body.decode("utf-8", "replace")
            failed = ModelFailedError if MODEL_FAILED in message else TritonError
            error_type = UnknownModelError if _is_unknown_model(response.status, message) else failed
            raise error_type(f"{response.status}: {message[:300]}")
        return response


def _is_unknown_model(status: int, message: str) -> bool:
    return status == 404 or any(words in message for words in ("unknown model", "is not ready", "has no available versions"))


def _read_outputs(body: bytes, json_bytes: int) -> ModelOutputs:
    """Parse the tensors of a v2 answer: JSON that names them in order, then their bytes."""
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


def _http(serve: Serve, within_s: float = ANSWERS_WITHIN_S) -> Any:
    address = f"{serve.host}:{serve.http_port}"
    return triton_http.InferenceServerClient(address, connection_timeout=within_s, network_timeout=within_s)


def _grpc(serve: Serve) -> Any:
    return triton_grpc.InferenceServerClient(f"{serve.host}:{serve.grpc_port}")


def _administer(serve: Serve, action: str, model: str, key: str) -> None:
    """Load or unload over gRPC: over HTTP, other connections on the same thread of Triton would wait for it."""
    try:
        with _grpc(serve) as client:
            getattr(client, f"{action}_model")(model, headers={GRPC_ADMIN_HEADER: key}, client_timeout=ADMIN_TIMEOUT_S)
    except triton_grpc.InferenceServerException as error:
        raise _admin_error(serve, f"{action} {model}", error) from None


def _admin_error(serve: Serve, action: str, error: Exception) -> ToolError:
    where = f"{serve.host}:{serve.grpc_port}"
    if "restricted" in str(error):
        problem = f"Triton did not {action}: our key is not its admin key"
        return ToolError(where, problem, "name the file with its key: EVERGREEN_TRITON_KEY_FILE")
    return ToolError(where, f"Triton did not {action}: {error}", "read the server's log in live/triton/")


def _as_bytes(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([text.encode("utf-8") for text in texts], dtype=np.object_).reshape(-1, 1)


def _outputs(result: Any) -> ModelOutputs:
    label, probabilities, sketch, pieces, pieces_per_word = (result.as_numpy(name) for name in OUTPUTS)
    return ModelOutputs(
        [cell.decode("utf-8") for cell in label.reshape(-1)],
        probabilities,
        sketch,
        pieces.reshape(-1),
        pieces_per_word.reshape(-1),
    )
