"""What is tested: where it listens, what a request for a text looks like, and how its answer is read."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import orjson

from pipeline.errors import InputError


class Answer(NamedTuple):
    """What an answer says; None where it does not say."""

    label: str | None
    version: str | None
    cached: bool | None


class Target(NamedTuple):
    """An HTTP/1.1 endpoint. `read` takes a 2xx body and the bytes of JSON at its front; what it raises makes it unreadable."""

    name: str
    url: str
    method: str
    headers: Mapping[str, str]
    body: Callable[[str, int], bytes]  # of a text and the request's number
    read: Callable[[bytes, int], Answer]


UNREADABLE_BODY = (ValueError, LookupError, TypeError, AttributeError)  # what `read` raises for a body it does not know


def gateway_target(url: str, *, units: int, headers: Mapping[str, str]) -> Target:
    """Our gateway at http://host:port; requests come from so many units in turn, 0: they name none."""

    def body(text: str, number: int) -> bytes:
        return orjson.dumps({"text": text, "unit": f"unit-{number % units}"} if units else {"text": text})

    return Target("gateway", _with_path(url, "/v1/predict"), "POST", headers, body, _read_gateway)


def triton_target(url: str, model: str, *, outputs: Sequence[str], headers: Mapping[str, str]) -> Target:
    """A model of a KServe v2 server at http://host:port; outputs come in binary, since JSON has no 16-bit floats."""
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]

    def body(text: str, _number: int) -> bytes:
        tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        return orjson.dumps({"inputs": [tensor], "outputs": wanted})

    return Target("triton", _with_path(url, f"/v2/models/{model}/infer"), "POST", headers, body, _read_triton)


def http_target(url: str, *, method: str, template: str, headers: Mapping[str, str], label: str) -> Target:
    """Any endpoint: `{text}` in the template is replaced by the text, escaped as inside a JSON string.

    `label` is where the label stands in the JSON answer, such as `predictions.0.label`; empty: answers are not read.
    """
    before, mark, behind = template.partition("{text}")
    if not mark:
        raise InputError("body", "the template has no {text}", 'write, for example: {"text": "{text}"}')
    path = [int(key) if key.isdigit() else key for key in label.split(".")] if label else []

    def body(text: str, _number: int) -> bytes:
        return f"{before}{json.dumps(text, ensure_ascii=False)[1:-1]}{behind}".encode()

    def read(answer: bytes, _json_bytes: int) -> Answer:
        if not path:
            return Answer(None, None, None)
        value: Any = orjson.loads(answer)
        for key in path:
            value = value[key]
        return Answer(str(value), None, None)

    return Target("http", url, method, headers, body, read)


def split_url(url: str) -> SplitResult:
    """The parts of an http:// address; raises `InputError` for another one."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise InputError(url, "this is not an http:// address", "for example: http://127.0.0.1:8080")
    return parts


def encoder(target: Target) -> Callable[[str, int], bytes]:
    """A function from a text and the request's number to the bytes on the wire."""
    parts = split_url(target.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc.rpartition("@")[2], "Content-Type": "application/json"} | dict(target.headers)
    head = f"{target.method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if head.count("\r\n") != len(headers) + 1:
        raise InputError("headers", "a header holds a line break", "give each as `name: value`")

    def encode(text: str, number: int) -> bytes:
        body = target.body(text, number)
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    return encode


def _read_gateway(answer: bytes, _json_bytes: int) -> Answer:
    prediction = orjson.loads(answer)["predictions"][0]
    return Answer(prediction["label"], str(prediction["version"]), prediction.get("cached"))


def _read_triton(answer: bytes, json_bytes: int) -> Answer:
    """The label is one element of a BYTES tensor: four bytes of length, little-endian, then UTF-8."""
    head = orjson.loads(answer[:json_bytes] if json_bytes else answer)
    at = json_bytes
    for output in head["outputs"]:
        if output["name"] == "label":
            size = int.from_bytes(answer[at : at + 4], "little")
            label = answer[at + 4 : at + 4 + size].decode()
            return Answer(label, head["model_name"].rpartition("-")[2], None)
        at += output["parameters"]["binary_data_size"]
    raise ValueError("no output is called label")


def _with_path(url: str, path: str) -> str:
    return url if split_url(url).path.strip("/") else url.rstrip("/") + path
