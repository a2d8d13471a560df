"""`make traffic`: texts in order with their customers, labels as feedback, failures counted and not repeated."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, ToolError
from serving.loadtest.replay import Counts, read_traffic, replay, require_gateway
from tests.http_servers import serving_in_thread

ROWS = [
    {"text": "where is my parcel", "unit": "ann", "label": "track_order", "phase": "before"},
    {"text": "refused", "unit": "ben", "label": "refund_status", "phase": "before"},
    {"text": "my scooter battery", "label": "battery_problem", "phase": "after"},
]


@contextmanager
def gateway(tokens: list[str | None] | None = None) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Yield the URL of a gateway and the requests posted to it; the text "refused" gets 503. `tokens` collects theirs."""
    posted: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            posted.append((self.path, body))
            if tokens is not None:
                tokens.append(self.headers["authorization"])
            self.send_response(503 if body.get("text") == "refused" else 200)
            self.end_headers()
            if self.path == "/v1/predict":
                self.wfile.write(json.dumps({"predictions": [{"id": f"p{len(posted)}"}]}).encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    with serving_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, posted


def replay_all(url: str, label_share: float) -> tuple[Counts, list[str]]:
    announced: list[str] = []
    rng = random.Random(1)  # noqa: S311
    *_, last = replay(ROWS, url, rate_per_s=1000, label_share=label_share, rng=rng, announce=announced.append)
    return last, announced


def test_texts_go_in_order_with_their_customers_and_a_refused_one_is_counted() -> None:
    with gateway() as (url, posted):
        last, announced = replay_all(url, 0.0)
    assert posted == [
        ("/v1/predict", {"text": "where is my parcel", "unit": "ann"}),
        ("/v1/predict", {"text": "refused", "unit": "ben"}),
        ("/v1/predict", {"text": "my scooter battery"}),
    ]
    assert last == Counts(texts=3, failed=1, labels=0)
    assert announced[0].endswith("“before”, number 1")
    assert "number 2 was not answered" in announced[1]
    assert announced[2].endswith("“after”, number 3")


def test_labels_are_given_only_for_answers() -> None:
    with gateway() as (url, posted):
        last, _announced = replay_all(url, 1.0)
    assert [body for path, body in posted if path == "/v1/feedback"] == [
        {"id": "p1", "label": "track_order"},
        {"id": "p4", "label": "battery_problem"},
    ]
    assert last.labels == 2


def test_texts_and_labels_carry_the_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_TOKEN", "evg_secret")
    sent: list[str | None] = []
    with gateway(sent) as (url, posted):
        replay_all(url, 1.0)
    assert sent == ["Bearer evg_secret"] * len(posted)


def test_without_a_gateway_the_error_says_how_to_start_one() -> None:
    with gateway() as (url, _posted):
        require_gateway(url)
    with pytest.raises(ToolError, match=r"no gateway answers there: .*refused[^<>]*make serve") as raised:
        require_gateway(url)
    assert "urlopen" not in str(raised.value)


@pytest.mark.parametrize("line", ["no json", '{"label": "x"}', '["text"]', '{"text": 3}'])
def test_an_invalid_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"text": "hello"}}\n{line}\n')
    with pytest.raises(InputError, match=r"lines\.jsonl, line 2"):
        read_traffic(path)
