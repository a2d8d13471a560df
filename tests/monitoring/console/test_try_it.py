"""Try it: an answer with all that explains it, a refusal with what to do, and a correction under the person's own name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from markupsafe import escape
from starlette.requests import Request

from monitoring.console.try_it import neighbours
from monitoring.console.try_it.answer import answer_of
from monitoring.console.try_it.asking import caller_headers
from monitoring.console.try_it.neighbours import Neighbours
from pipeline.card.training_texts import TRAINING_TEXTS, Neighbour
from pipeline.output.plain_text import printable
from pipeline.params import Params
from pipeline.runtime.outputs import ModelOutputs
from serving.triton.client import ModelSchema, TritonError
from state.database import read_state
from state.tables import feedback
from tests.monitoring.console.console_client import SentRequest, answering, console_client
from tests.monitoring.console.published import HOSTILE, LABELS, outputs, publish
from tests.serving.gateway.fake_triton import FakeConnection, running_gateway

PREDICTION: dict[str, Any] = {
    "id": "6a129c1f5f1c9a3e7b2d4c6a-1-0-8e0f1a2b5f1c9a3e",
    "label": "refund",
    "confidence": 0.9,
    "runner_up": "track",
    "version": 1,
    "role": "champion",
    "cached": True,
    "probabilities": {label: 0.9 if label == "refund" else 0.1 / 7 for label in LABELS},
}
ANSWER = {"request_id": "r", "predictions": [PREDICTION]}
SHOWN_HOSTILE = str(escape(printable(HOSTILE)))


class HostileConnection(FakeConnection):
    """Answers every text with the hostile label, and with the sketch of the first training text."""

    async def infer(self, model: str, texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        return outputs(len(texts), HOSTILE)

    async def schema(self, model: str) -> ModelSchema:
        return ModelSchema(LABELS)


class SilentConnection(FakeConnection):
    """Has no answer."""

    async def infer(self, model: str, texts: Sequence[str], timeout_s: float) -> ModelOutputs:
        raise TritonError("nobody is there")


@pytest.fixture(autouse=True)
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "Connection", HostileConnection)


def test_an_answer_comes_with_all_that_explains_it(params: Params, tmp_path: Path) -> None:
    publish(tmp_path)
    with answering(200, ANSWER) as port, console_client(params, tmp_path, port) as console:
        piece = console.ask("where is my money?")
    for part in (
        "<bdi>refund</bdi>",
        "90% sure",
        "version 1, champion",
        "from the cache",
        "3 more labels",
        "Nearest training texts",
        "give me my money back",
        f'data-id="{PREDICTION["id"]}"',
        f'href="/live/why?name={PREDICTION["id"]}"',
        "is a proposal for a new one",
    ):
        assert part in piece, part
    assert piece.count("<svg") == len(LABELS)
    nearest = piece[piece.index("Nearest training texts") :]
    assert nearest.index("give me my money back") < nearest.index("where is my parcel?")


def test_the_gateway_gets_the_text_and_the_persons_token_and_no_other(params: Params, tmp_path: Path) -> None:
    received: list[SentRequest] = []
    with answering(200, ANSWER, received) as port, console_client(params, tmp_path, port) as console:
        console.ask(HOSTILE, authorization="Bearer evg_mine")
        console.ask("hello")
        console.post("/try/correction", {"id": "6a", "label": "track"}, authorization="Bearer evg_mine")
    assert [request.headers.get("authorization") for request in received] == ["Bearer evg_mine", None, "Bearer evg_mine"]
    assert received[0].body == {"text": HOSTILE, "probabilities": True}
    assert (received[2].path, received[2].body) == ("/v1/feedback", {"id": "6a", "label": "track"})


@pytest.mark.parametrize(
    ("peer", "given", "forwarded"),
    [
        ("127.0.0.1", {}, None),
        ("::1", {}, None),
        ("192.0.2.7", {}, "192.0.2.7"),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.7"}, "127.0.0.1"),
        ("127.0.0.1", {"via": "1.1 proxy"}, "127.0.0.1"),
    ],
)
def test_who_comes_from_elsewhere_is_not_the_local_user(peer: str, given: dict[str, str], forwarded: str | None) -> None:
    headers = [(name.encode(), value.encode()) for name, value in given.items()]
    request = Request({"type": "http", "client": (peer, 5), "headers": headers})
    assert caller_headers(request).get("x-forwarded-for") == forwarded


REFUSALS: list[tuple[int, str, str, tuple[str, ...]]] = [
    (401, "no_token", "", ("data-needs-token", "evergreen token add NAME")),
    (403, "scope_missing", "", ("data-needs-token", "`label` to correct")),
    (422, "text_too_long", "", ("Change the text",)),
    (429, "too_fast", "7", ("Wait 7 s",)),
    (503, "overloaded", "2", ("Wait 2 s",)),
    (503, "nothing_served", "", ("make repro",)),
    (503, "triton_unavailable", "1", ("evergreen status",)),
    (500, "fault", "", ("evergreen status",)),
]


@pytest.mark.parametrize(("status", "code", "retry_after", "advice"), REFUSALS)
def test_a_refusal_says_why_and_what_to_do(
    status: int, code: str, retry_after: str, advice: tuple[str, ...], params: Params, tmp_path: Path
) -> None:
    body = {"request_id": "r", "error": {"code": code, "message": f"the cause is <{code}>"}}
    with answering(status, body, None, retry_after) as port, console_client(params, tmp_path, port) as console:
        piece = console.ask("hello")
    assert f"the cause is &lt;{code}&gt;" in piece
    assert 'role="alert"' in piece
    for part in advice:
        assert part in piece, part


def test_without_a_gateway_the_page_says_how_to_start_it(params: Params, tmp_path: Path) -> None:
    with console_client(params, tmp_path) as console:
        assert "Try it" in console.page("/try")
        piece = console.ask("hello")
    assert "The gateway does not answer at http://127.0.0.1:9." in piece
    assert "make serve" in piece


@pytest.mark.parametrize("content", [b"", b"[]", b'{"text": 5}', b'{"text": "a", "more": 1}'])
def test_a_request_that_the_page_does_not_send_is_refused(content: bytes, params: Params, tmp_path: Path) -> None:
    import requests

    with console_client(params, tmp_path) as console:
        response = requests.post(f"{console.url}/try/answer", content, headers={"content-type": "application/json"}, timeout=60)
        form = requests.post(f"{console.url}/try/answer", {"text": "a"}, timeout=60)
    assert (response.status_code, form.status_code) == (422, 415)


def test_through_a_real_gateway_a_hostile_label_is_text_and_a_correction_is_stored(params: Params, tmp_path: Path) -> None:
    publish(tmp_path)
    with running_gateway(params, tmp_path, HostileConnection) as port, console_client(params, tmp_path, port) as console:
        piece = console.ask(HOSTILE)
        assert "<script" not in piece
        assert SHOWN_HOSTILE in piece
        assert "computed now" in piece
        id = piece.split('data-id="')[1].split('"')[0]
        known = console.post("/try/correction", {"id": id, "label": "track"})
        new = console.post("/try/correction", {"id": id, "label": "<b>new"})
        unknown = console.post("/try/correction", {"id": "0" * 20, "label": "track"})
    assert "The next retrain learns from it" in known
    assert "a proposal for a new label" in new
    assert "correct the new answer" in unknown
    with read_state(tmp_path) as connection:
        assert connection is not None
        rows = connection.execute(sa.select(feedback.c.label, feedback.c.kind, feedback.c.labeller).order_by(feedback.c.id)).all()
    assert [tuple(row) for row in rows] == [("track", "label", "local"), ("<b>new", "proposal", "local")]


def test_a_version_without_training_texts_says_so(params: Params, tmp_path: Path) -> None:
    publish(tmp_path, is_whole=False)
    with answering(200, ANSWER) as port, console_client(params, tmp_path, port) as console:
        assert "version 1 was published without its training texts" in console.ask("hello")


def test_altered_training_texts_are_not_shown(params: Params, tmp_path: Path) -> None:
    folder = publish(tmp_path)
    path = folder / TRAINING_TEXTS
    path.write_bytes(path.read_bytes().replace(b"give me my money", b"give me my honey"))
    with answering(200, ANSWER) as port, console_client(params, tmp_path, port) as console:
        piece = console.ask("hello")
    assert "does not have the SHA-256 of the manifest" in piece
    assert "honey" not in piece


def test_without_triton_there_is_an_answer_and_no_neighbours(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "Connection", SilentConnection)
    publish(tmp_path)
    with answering(200, ANSWER) as port, console_client(params, tmp_path, port) as console:
        piece = console.ask("hello")
    assert "90% sure" in piece
    assert "Triton gave no vector of this text: nobody is there" in piece


def test_examples_are_short_held_out_texts_and_texts_that_it_confused(params: Params, tmp_path: Path) -> None:
    publish(tmp_path)
    with console_client(params, tmp_path) as console:
        page = console.page("/try")
    assert "where is my parcel?" in page
    assert SHOWN_HOSTILE in page
    assert "<script>alert" not in page
    assert "x" * 2000 not in page


def doubts(prediction: dict[str, Any], labels: Sequence[str] = ()) -> list[str]:
    rows = [Neighbour(label, "text", 0.5) for label in labels]
    return answer_of(prediction, 12.0, Neighbours(rows)).doubts


def test_doubts_are_said_and_certainty_is_not_doubted() -> None:
    assert doubts(PREDICTION, ["refund"] * 5) == doubts(PREDICTION) == []
    assert doubts({**PREDICTION, "confidence": 0.4}) == ["The model is unsure: this label is more likely wrong than right."]
    abstained = {**PREDICTION, "label": None, "confidence": 0.4, "reason": "unsure", "suggestion": "refund"}
    assert doubts(abstained, ["refund"]) == ["The model abstains: it is too unsure of its own label, refund."]
    assert doubts(PREDICTION, ["track"] * 3 + ["refund"] * 2) == ["3 of the 5 nearest training texts have another label."]


def test_a_fallback_label_is_neither_compared_nor_confirmed(params: Params, tmp_path: Path) -> None:
    """It stands for no answer: a click on Yes would propose it as a new label."""
    publish(tmp_path)
    abstained = {**PREDICTION, "label": "ask a person", "confidence": 0.4, "reason": "unsure", "suggestion": "refund"}
    assert doubts(abstained, ["refund"] * 5) == doubts(abstained)
    with answering(200, {"predictions": [abstained]}) as port, console_client(params, tmp_path, port) as console:
        piece = console.ask("where is my money?")
    for part in ("ask a person", "too unsure of its own label, refund", "Which label is right?", "The label is"):
        assert part in piece, part
    for part in ("sure</span>", 'id="confirm"', "Is it right?"):
        assert part not in piece, part
    nearest = piece[piece.index("Nearest training texts") :]
    assert nearest.count("<td><bdi>refund</bdi>") == 2


def test_all_probabilities_are_shown_the_largest_first_and_five_at_once() -> None:
    answer = answer_of(PREDICTION, 12.0, Neighbours([]))
    assert answer.open_bars[0].label == "refund"
    assert (len(answer.open_bars), len(answer.folded_bars)) == (5, 3)
    assert len(answer_of({**PREDICTION, "probabilities": None}, 1.0, Neighbours([])).bars) == 0
