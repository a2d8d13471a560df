"""Requests and answers of the gateway, Triton and any other endpoint."""

import json

import numpy as np
import pytest
import tritonclient.http

from pipeline.errors import InputError
from serving.loadtest import (
    gateway_target,
    http_target,
    run_load,
    triton_target,
)
from serving.loadtest.targets import encoder
from tests.serving.loadtest.conftest import LOAD, TEXTS, Running


def test_a_triton_request_equals_that_of_tritonclient_and_its_answer_is_read() -> None:
    target = triton_target("http://127.0.0.1:8000", "intent-12", outputs=("label", "sketch"), headers={})
    tensor = tritonclient.http.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([["höher"]], dtype=np.object_), binary_data=False)
    wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in ("label", "sketch")]
    theirs, _ = tritonclient.http.InferenceServerClient.generate_request_body([tensor], outputs=wanted)
    head, _, body = encoder(target)("höher", 0).partition(b"\r\n\r\n")
    assert json.loads(body) == json.loads(theirs)
    assert head.startswith(b"POST /v2/models/intent-12/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    sketch = {"name": "sketch", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    label = {"name": "label", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 10}}
    front = json.dumps({"model_name": "intent-12", "model_version": "1", "outputs": [sketch, label]}).encode()
    answer = front + b"\x00\x3c\x00\x3c" + b"\x06\x00\x00\x00refund"
    read = tritonclient.http.InferenceServerClient.parse_response_body(answer, header_length=len(front))
    assert read.as_numpy("label").tolist() == [[b"refund"]]
    assert target.read(answer, len(front)) == ("refund", "12", None)


def test_any_endpoint_can_be_loaded_with_a_template(server: Running) -> None:
    target = http_target(
        f"{server.url}/v1/predict", method="POST", template='{"a": {}, "text": "{text}"}', headers={}, label="predictions.0.label"
    )
    assert json.loads(encoder(target)('say "hi"\n', 0).partition(b"\r\n\r\n")[2]) == {"a": {}, "text": 'say "hi"\n'}
    result = run_load(target, TEXTS, LOAD._replace(duration_s=0.5), check=lambda _text, answer: answer.label == "card_arrival")
    assert result.counts == {"200": len(result.at_s)}
    assert result.wrong is not None
    assert not result.wrong.any()
    with pytest.raises(InputError, match=r"no \{text\}"):
        http_target(server.url, method="POST", template="{}", headers={}, label="")


def test_gateway_requests_name_as_many_units_as_asked_for() -> None:
    encode = encoder(gateway_target("http://localhost:8080", units=2, headers={"Authorization": "Bearer made-up"}))
    bodies = [json.loads(encode("hello", number).partition(b"\r\n\r\n")[2]) for number in range(4)]
    assert [body["unit"] for body in bodies] == ["unit-0", "unit-1", "unit-0", "unit-1"]
    assert b"\r\nAuthorization: Bearer made-up\r\n" in encode("hello", 0)
    with pytest.raises(InputError, match="line break"):
        encoder(gateway_target("http://localhost:8080", units=0, headers={"a": "b\r\nc: d"}))


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
def test_a_header_that_is_given_replaces_ours_and_is_sent_once(name: str) -> None:
    encode = encoder(gateway_target("http://localhost:8080", units=0, headers={name: "text/plain"}))
    head = encode("hello", 0).partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"content-type:") == 1
    assert b"content-type: text/plain" in head
