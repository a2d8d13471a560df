"""Describe the arms of the serving bench: servers, requests, texts, and guesses of their capacities."""

import json
from collections.abc import Sequence

import numpy as np
import psutil
from tokenizers import Tokenizer

from pipeline.home import PACKAGE
from pipeline.runtime.batches import pad
from pipeline.runtime.text import clean
from serving.loadtest import Target, gateway_target, http_target, triton_target
from tests.bench.children import Stack
from tests.bench.meter import Arm
from tests.bench.serve.scratch import FIXED, PLAIN_FP32, UNBATCHED

OUTPUTS = ("label", "probabilities")
REPEATS, LONG_SHARE = 0.6, 0.1
MIXED_P99_MS = 500.0  # requests padded to max_pieces keep 50 ms at no rate: S4 uses a limit that both can keep
LADDER = (
    "naive",
    "triton, no batching",
    "triton, padded fp32",
    "triton",
    "gateway",
    "gateway, no cache, repeats",
    "gateway, repeats",
)


def make_arms(plain: Stack, cached: Stack, naive: psutil.Process, naive_url: str, texts: Sequence[str]) -> dict[str, Arm]:
    """Return the arms by name; each has a guess from which the first search starts."""
    mixed = mix(texts)
    naive_target = http_target(naive_url, method="POST", template='{"text": "{text}"}', headers={}, label="label")
    triton = triton_target(plain.triton_url, "intent-1", outputs=OUTPUTS, headers={})
    unbatched, padded_fp32 = (
        triton_target(plain.triton_url, name, outputs=OUTPUTS, headers={}) for name in (UNBATCHED, PLAIN_FP32)
    )
    padded = padded_target(plain)
    gateway, with_cache = (gateway_target(home.gateway_url, units=0, headers={}) for home in (plain, cached))
    on_plain, on_cached, on_naive = plain.processes, cached.processes, (naive,)
    arms = (
        Arm("naive", naive_target, texts, 0.0, on_naive, 25.0),
        Arm("triton", triton, texts, 0.0, on_plain, 150.0),
        Arm("triton, no batching", unbatched, texts, 0.0, on_plain, 120.0),
        Arm("triton, padded fp32", padded_fp32, texts, 0.0, on_plain, 120.0),
        Arm("triton, mixed lengths", triton, mixed, 0.0, on_plain, 100.0, MIXED_P99_MS),
        Arm("padded, mixed lengths", padded, mixed, 0.0, on_plain, 15.0, MIXED_P99_MS),
        Arm("gateway", gateway, texts, 0.0, on_plain, 150.0),
        Arm("gateway, no cache, repeats", gateway, texts, REPEATS, on_plain, 150.0),
        Arm("gateway, repeats", with_cache, texts, REPEATS, on_cached, 300.0),
        Arm("gateway, cache, no repeats", with_cache, texts, 0.0, on_cached, 150.0),
    )
    return {arm.name: arm for arm in arms}


def mix(texts: Sequence[str]) -> list[str]:
    """Replace a tenth of the texts with long ones made of eight: a desk gets chats and letters."""
    rng = np.random.default_rng(4)
    return [" ".join(rng.choice(texts, size=8)) if rng.random() < LONG_SHARE else text for text in texts]


def padded_target(plain: Stack) -> Target:
    """Send KServe v2 requests of pieces that the client pads to `model.max_pieces`, for Triton's own dynamic batching."""
    length = plain.params.model.max_pieces
    tokenizer = Tokenizer.from_file(str(PACKAGE / "1" / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    text_target = triton_target(plain.triton_url, FIXED, outputs=OUTPUTS, headers={})

    def body(text: str, _number: int) -> bytes:
        rows = {name: array[0] for name, array in pad([tokenizer.encode(clean(text)).ids]).items()}
        inputs = [
            {"name": name, "shape": [1, length], "datatype": "INT64", "data": np.pad(row, (0, length - len(row))).tolist()}
            for name, row in rows.items()
        ]
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
        return json.dumps({"inputs": inputs, "outputs": outputs}).encode()

    return Target(FIXED, text_target.url, "POST", text_target.headers, body, text_target.read)
