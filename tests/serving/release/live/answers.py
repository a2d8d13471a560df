"""Ask the gateway of a separate stack, and compare its answers with the offline ones of the version that it names."""

import json
from functools import cache
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.faults.stack import Answer, Installation, offline

TEXTS = ("where is my parcel?", "my card was declined twice", "the kettle leaks", "can I send the mixer back?")


def ask(installation: Installation, text: str, unit: str | None = None) -> tuple[int, Answer]:
    """Return version and answer of the gateway; raises `HTTPError` for another status than 200."""
    body = json.dumps({"text": text} | ({"unit": unit} if unit else {})).encode()
    url, headers = f"http://127.0.0.1:{installation.params.gateway.port}/v1/predict", {"content-type": "application/json"}
    request = Request(url, data=body, headers=headers)
    with urlopen(request, timeout=10) as page:  # noqa: S310
        prediction = json.load(page)["predictions"][0]
    return prediction["version"], (prediction["label"], prediction["confidence"])


def assert_answers_as(installation: Installation, version: int) -> None:
    for text, (label, confidence) in zip(TEXTS, right(installation, version), strict=True):
        assert ask(installation, text) == (version, (label, pytest.approx(confidence, abs=0.003)))


def right(installation: Installation, version: int) -> list[Answer]:
    """Return the version's answers to `TEXTS`, offline."""
    return _right(installation.packages[version], version)


@cache
def _right(package: Path, version: int) -> list[Answer]:
    return offline({version: package})(version, TEXTS).answers()
