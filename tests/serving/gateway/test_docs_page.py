"""/docs works offline under a strict policy, its examples are accepted, and a refused body is told which fields exist."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.params import Params
from serving.gateway.docs_page import FRONT_PAGE, PAGES
from serving.gateway.errors import ApiError
from serving.gateway.schemas import FeedbackRequest, JobRequest, PredictRequest, Record, parse
from tests.monitoring.inbox.browser import PHONE, Browser, open_browser
from tests.serving.gateway.fake_triton import running_gateway

# elements that reach beyond the right edge, unless a parent scrolls or cuts them
WIDER_THAN_THE_SCREEN = """[...document.querySelectorAll('body *')].filter((element) => {
  if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let node = element.parentElement; node; node = node.parentElement)
    if (getComputedStyle(node).overflowX !== 'visible') return false;
  return true;
}).map((element) => `${element.tagName} ${element.className}`).join(', ')"""


@pytest.fixture(scope="module")
def url(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EVERGREEN_STATE_URL", raising=False)
        with running_gateway(params, tmp_path_factory.mktemp("docs")) as port:
            yield f"http://127.0.0.1:{port}"


def value_at(answer: Any, expression: str) -> Any:
    """Return what an expression of an OpenAPI link names in an answer's body."""
    for key in expression.removeprefix("$response.body#/").split("/"):
        answer = answer[int(key) if key.isdigit() else key]
    return answer


def call_with_examples(url: str) -> Iterator[tuple[str, int]]:
    """Yield each operation and the status of each of its examples, in the document's order, following its links."""
    document = requests.get(f"{url}/openapi.json", timeout=20).json()
    linked: dict[str, tuple[dict[str, Any], Any]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            link, source = linked.get(operation["operationId"], ({}, None))
            place = path.format(**{name: value_at(source, at) for name, at in link.get("parameters", {}).items()})
            body = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {"examples": {"": {"value": None}}})
            )
            for example in body["examples"].values():
                filled = {name: value_at(source, at) for name, at in link.get("requestBody", {}).items()}
                given = example["value"] and example["value"] | filled
                answer = requests.request(method, url + place, json=given, timeout=20)
                yield operation["operationId"], answer.status_code
                links = operation["responses"].get(str(answer.status_code), {}).get("links", {})
                linked |= {each["operationId"]: (each, answer.json()) for each in links.values()}


def test_the_front_page_leads_to_the_console_if_there_is_one_else_to_the_api(
    url: str, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def target(address: str) -> str:
        answer = requests.get(f"{address}/", timeout=20, allow_redirects=False)
        assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
        return answer.headers["location"]

    assert target(url) == "/docs"
    monkeypatch.setenv(FRONT_PAGE, "http://127.0.0.1:8091/")
    with running_gateway(params, tmp_path) as port:
        assert target(f"http://127.0.0.1:{port}") == "http://127.0.0.1:8091/"


def test_every_example_is_accepted(url: str) -> None:
    assert list(call_with_examples(url)) == [
        ("predict", 200),
        ("predict", 200),
        ("create_job", 202),
        ("get_job", 200),
        ("create_feedback", 201),
        ("delete_feedback", 200),
        ("create_outcome", 201),
        ("get_routes", 200),
    ]


def test_the_document_shows_no_made_up_value(url: str) -> None:
    """A field of an answer without an example is shown as `string` or 0."""
    schemas = requests.get(f"{url}/openapi.json", timeout=20).json()["components"]["schemas"]
    fields = {(name, field): schema for name, record in schemas.items() for field, schema in record["properties"].items()}
    bare = [key for key, schema in fields.items() if "examples" not in schema and "$ref" not in str(schema)]
    assert bare == []


def test_the_page_and_its_files_come_from_the_gateway_alone(url: str) -> None:
    for path in PAGES:
        answer = requests.get(url + path, headers={"sec-fetch-site": "same-origin"}, timeout=20)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
    foreign = {"host": "evil.example"}
    assert requests.get(f"{url}/docs/docs.js", headers=foreign, timeout=20).status_code == 400
    assert requests.get(f"{url}/docs/../app.py", timeout=20).status_code == 404


async def execute(browser: Browser, operation: str, status: int) -> None:
    """Open an operation in Swagger, send its example and wait for the answer."""
    block = f"document.querySelector('[id$={operation}]')"
    await browser.evaluate(f"{block}.querySelector('.opblock-summary-control').click()")
    await browser.wait_for(f"!!{block}.querySelector('.execute')")
    # Swagger ignores a click before it has stored the example as the body
    is_asked = f"!!{block}.querySelector('.loading-container, .live-responses-table')"
    await browser.wait_for(f"{is_asked} || ({block}.querySelector('.execute').click(), false)")
    await browser.wait_for(
        f"{block}.querySelector('.live-responses-table tbody .response-col_status')?.innerText.includes('{status}')"
    )


def test_a_prediction_and_its_feedback_are_sent_from_the_page(url: str, tmp_path: Path) -> None:
    hosts = asyncio.run(send_from_the_page(url, tmp_path / "docs.png"))
    assert {name.startswith((url, "data:")) for name in hosts} == {True}


async def send_from_the_page(url: str, picture: Path) -> list[str]:
    """Send four requests by clicks; return what the page has loaded."""
    async with open_browser() as browser:
        await browser.open(f"{url}/docs")
        await browser.wait_for("!!document.querySelector('[id$=predict]')")
        await execute(browser, "predict", 200)
        await execute(browser, "create_feedback", 201)
        await execute(browser, "create_job", 202)
        await execute(browser, "get_job", 200)
        await browser.screenshot(picture, width=1200, height=900, scheme="light")
        assert browser.errors == []
        hosts = await browser.evaluate("JSON.stringify(performance.getEntriesByType('resource').map((entry) => entry.name))")
    return [str(name) for name in json.loads(hosts)]


def test_the_page_follows_the_colour_scheme_while_it_is_open_and_can_be_read_on_a_phone(url: str) -> None:
    light, dark, light_again = asyncio.run(read_in_both_schemes(url))
    assert light == light_again != dark


async def read_in_both_schemes(url: str) -> list[str]:
    """Return the page's background in the light scheme, the dark one and the light one again."""
    async with open_browser() as browser:
        await browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
        await browser.open(f"{url}/docs")
        await browser.wait_for("!!document.querySelector('[id$=predict]')")
        await execute(browser, "predict", 200)
        await execute(browser, "create_feedback", 201)
        grounds = []
        for scheme in ("light", "dark", "light"):
            await browser.prefer(scheme)
            await browser.wait_for(f"document.documentElement.classList.contains('dark-mode') === {json.dumps(scheme == 'dark')}")
            await browser.wait_for("!document.getAnimations().some((each) => each instanceof CSSTransition)")  # of colours, 0.3 s
            grounds.append(await browser.evaluate("getComputedStyle(document.querySelector('.swagger-ui')).backgroundColor"))
            assert await browser.faint_texts() == {}, scheme
            assert await browser.evaluate(WIDER_THAN_THE_SCREEN) == ""
        assert browser.errors == []
    return grounds


@pytest.mark.parametrize(
    ("record", "body", "message"),
    [
        (
            PredictRequest,
            {"txt": "a"},
            "there is no field `txt`: did you mean `text`? Fields: text, texts, unit, version, probabilities",
        ),
        (
            PredictRequest,
            {"Texts": ["a"]},
            "there is no field `Texts`: did you mean `texts`? Fields: text, texts, unit, version, probabilities",
        ),
        (
            PredictRequest,
            {"text": "a", "colour": 1},
            "there is no field `colour`. Fields: text, texts, unit, version, probabilities",
        ),
        (PredictRequest, ["a"], "body: Input should be an object. Fields: text, texts, unit, version, probabilities"),
        (PredictRequest, {"texts": ["a", 7]}, "texts.1: Input should be a valid string"),
        (JobRequest, {"text": "a", "callback": "x"}, "did you mean `callback_url`?"),
        (FeedbackRequest, {"idd": "a", "label": "b"}, "there is no field `idd`: did you mean `id`? Fields: id, label, source"),
        (FeedbackRequest, {"label": "b"}, "id: Field required. Fields: id, label, source"),
    ],
)
def test_a_refused_body_is_told_which_fields_exist(record: type[Record], body: Any, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(record, json.dumps(body).encode())
    assert refused.value.status == 422
    assert message in refused.value.message


def test_a_long_field_is_cut_in_the_message() -> None:
    with pytest.raises(ApiError) as refused:
        parse(PredictRequest, json.dumps({"x" * 10_000: 1}).encode())
    assert len(refused.value.message) < 200
