"""Targets of a load test: address, request for a text, and reader of the answer."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from pipeline.errors import InputError
from serving.processes.addresses import split_url


class Answer(NamedTuple):
    """The content of an answer; None where the answer has no such field."""

    label: str | None
    version: str | None
    cached: bool | None


class Target(NamedTuple):
    """An HTTP/1.1 endpoint. `read` takes a 2xx body and the length of the JSON at its front; it raises for an unreadable body."""

    name: str
    url: str
    method: str
    headers: Mapping[str, str]
    body: Callable[[str, int], bytes]  # from a text and the request's number
    read: Callable[[bytes, int], Answer]


UNREADABLE_BODY = (ValueError, LookupError, TypeError, AttributeError)  # raised by `read` for an unknown body


def gateway_target(url: str, *, units: int, headers: Mapping[str, str]) -> Target:
    """Return our gateway at http://host:port; requests name `units` units in turn, none with 0."""

    def body(text: str, number: int) -> bytes:
        return orjson.dumps({"text": text, "unit": f"unit-{number % units}"} if units else {"text": text})

    return Target("gateway", _with_path(url, "/v1/predict"), "POST", headers, body, _read_gateway)


def triton_target(url: str, model: str, *, outputs: Sequence[str], headers: Mapping[str, str]) -> Target:
    """Return a model of a KServe v2 server at http://host:port; outputs are binary, since JSON has no 16-bit floats."""
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]

    def body(text: str, _number: int) -> bytes:
        tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        return orjson.dumps({"inputs": [tensor], "outputs": wanted})

    return Target("triton", _with_path(url, f"/v2/models/{model}/infer"), "POST", headers, body, _read_triton)


def http_target(url: str, *, method: str, template: str, headers: Mapping[str, str], label: str) -> Target:
    """Return any endpoint; the text, escaped for a JSON string, replaces `{text}` in the template.

    `label` is the label's path in the JSON answer, such as `predictions.0.label`; with an empty one answers are not read.
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


def encoder(target: Target) -> Callable[[str, int], bytes]:
    """Return a function from a text and the request's number to the encoded request."""
    parts = split_url(target.url, "http")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    defaults = {"Host": parts.netloc.rpartition("@")[2], "Content-Type": "application/json"}
    given = {name.lower() for name in target.headers}
    headers = {name: value for name, value in defaults.items() if name.lower() not in given} | dict(target.headers)
    head = f"{target.method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if head.count("\r\n") != len(headers) + 1:
        raise InputError("headers", "a header holds a line break", "give each as `name: value`")

    def encode(text: str, number: int) -> bytes:
        body = target.body(text, number)
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    return encode


def _read_gateway(answer: bytes, _json_bytes: int) -> Answer:
    prediction = orjson.loads(answer)["predictions"][0]
    label = prediction.get("suggestion") or prediction["label"]  # the model's own, where it abstained
    return Answer(label, str(prediction["version"]), prediction.get("cached"))


def _read_triton(answer: bytes, json_bytes: int) -> Answer:
    """Read the label from a BYTES tensor with one element: four bytes of length, little-endian, then UTF-8."""
    head = orjson.loads(answer[:json_bytes] if json_bytes else answer)
    at = json_bytes
    for output in head["outputs"]:
        if output["name"] == "label":
            size = int.from_bytes(answer[at : at + 4], "little")
            label = answer[at + 4 : at + 4 + size].decode()
            return Answer(label, head["model_name"].rpartition("-")[2], None)
        at += output["parameters"]["binary_data_size"]
    raise ValueError("no output is named label")


def _with_path(url: str, path: str) -> str:
    return url if split_url(url, "http").path.strip("/") else url.rstrip("/") + path
