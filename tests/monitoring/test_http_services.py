"""All six HTTP services on real servers: who may send them requests, and what they answer to odd clients."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from monitoring.monitor import app as monitor
from monitoring.monitor.service import MonitorService
from monitoring.retrain import app as retrain
from monitoring.retrain.metrics import ControllerMetrics
from pipeline.params import load_params
from serving.processes.health import find_owner, health_sign
from serving.processes.ports import free_port
from tests.http_servers import serving_app
from tests.monitoring.console.running_console import running_console
from tests.monitoring.inbox.running_inbox import running_inbox
from tests.monitoring.retrain.receiver.running_receiver import TOKEN, running_receiver
from tests.raw_http import exchange, get, post
from tests.serving.gateway.fake_triton import running_gateway

Ports = dict[str, int]
PAGES = {
    "gateway": ("/metrics", "/v1/routes", "/docs", "/openapi.json"),
    "receiver": ("/metrics",),
    "inbox": ("/", "/messages.json", "/metrics", "/page.css"),
    "console": ("/live", "/metrics", "/page.css", "/page.js"),
    "monitor": ("/metrics", "/report.json"),
    "controller": ("/metrics",),
}
POSTS = {"gateway": "/v1/predict", "receiver": "/v1/alerts", "inbox": "/alerts"}
SERVICES = list(PAGES)
WEBHOOK = b'{"version": "4", "status": "firing", "alerts": []}'
GOOD = {"gateway": b'{"text": "hello"}', "receiver": WEBHOOK, "inbox": WEBHOOK}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def ports(homes: Path) -> Iterator[Ports]:
    """Run all six services once; a port for each name."""
    params, folder = load_params(), homes
    with ExitStack() as stack:
        ports = {"gateway": stack.enter_context(running_gateway(params, folder / "gateway"))}
        ports["receiver"] = _port(stack.enter_context(running_receiver(params, folder / "receiver")).url)
        ports["inbox"] = _port(stack.enter_context(running_inbox(params.alerts, folder / "inbox")).url)
        ports["console"] = _port(stack.enter_context(running_console(params, folder / "console")))
        controller = ControllerMetrics()
        watched = MonitorService(params, folder / "monitor", lambda: 0.0)
        stack.callback(watched.close)
        apps = {
            "controller": (
                retrain.create_app({}, controller, params, threading.Event(), folder / "controller"),
                controller.count_refusal,
            ),
            "monitor": (monitor.create_app(watched, threading.Event()), watched.metrics.count_refusal),
        }  # the monitor last: Alembic migrates in one thread at a time
        for name, (app, refused) in apps.items():
            ports[name] = free_port()
            stack.enter_context(serving_app(app, "127.0.0.1", ports[name], refused=refused))
        yield ports


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


SITE = "https://evil.example.org"
FOREIGN = {
    "a host name that resolves here": {"host": "evil.example.org"},
    "a host name that begins like ours": {"host": "localhost.evil.example.org"},
    "a host name that ends like ours": {"host": "evil-gateway"},
    "no host name": {"host": ""},
    "a page of another site": {"headers": (f"Origin: {SITE}",)},
    "a page of another port": {"headers": ("Origin: http://127.0.0.1:3000",)},
    "a page without an origin": {"headers": ("Origin: null",)},
    "a picture in a page of another site": {
        "headers": ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image")
    },
    "a frame in a page of another port": {
        "headers": ("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe")
    },
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("service", SERVICES)
def test_no_web_page_of_another_site_reads_or_drives_a_service(ports: Ports, service: str, what: str) -> None:
    sent: dict[str, Any] = FOREIGN[what]
    headers, host = sent.get("headers", ()), sent.get("host", "127.0.0.1")
    requests = [get(page, *headers, host=host) for page in PAGES[service]]
    if service in POSTS:
        requests.append(post(POSTS[service], b"{}", *headers, host=host))
    for request in requests:
        answer = exchange(ports[service], request)
        assert (answer.status, answer.code) in {(400, "host_not_allowed"), (403, "cross_site")}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("service", POSTS)
def test_a_page_cannot_post_what_needs_no_permission(ports: Ports, service: str, content_type: str) -> None:
    request = post(POSTS[service], b'{"text": "hello"}', f"Authorization: Bearer {TOKEN}", content_type=content_type)
    answer = exchange(ports[service], request)
    assert (answer.status, answer.code) == (415, "content_type")


OUR_HOSTS = [
    "127.0.0.1",
    "127.0.0.1:8080",
    "10.42.0.7:8095",
    "[::1]:8080",
    "::1",
    "localhost",
    "LOCALHOST:8080",
    "localhost.",
    "app.localhost",
]
CLUSTER_HOSTS = ["gateway:8080", "gateway.evergreen", "monitor", "gateway.shop.svc", "gateway.shop.svc.cluster.local:8080"]


@pytest.mark.parametrize("host", OUR_HOSTS + CLUSTER_HOSTS)
@pytest.mark.parametrize("service", SERVICES)
def test_people_probes_and_scrapes_reach_a_service_by_any_address_and_by_its_own_names(
    ports: Ports, service: str, host: str
) -> None:
    assert exchange(ports[service], get("/metrics", host=host)).status == 200


@pytest.mark.parametrize("service", SERVICES)
def test_a_page_of_the_service_itself_and_a_link_to_it_work(ports: Ports, service: str) -> None:
    page, port = PAGES[service][0], ports[service]
    host = f"127.0.0.1:{port}"
    assert exchange(port, get(page, f"Origin: http://{host}", "Sec-Fetch-Site: same-origin", host=host)).status == 200
    link = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
    assert exchange(port, get(page, *link)).status == 200
    assert exchange(port, get(page, "Origin: https://app.localhost", host="app.localhost")).status == 200  # behind TLS
    if service in POSTS:
        assert exchange(port, post(POSTS[service], b"{}", *link)).code == "cross_site"  # a form is no link


def test_the_page_of_the_api_can_ask_it(ports: Ports) -> None:
    port = ports["gateway"]
    host = f"localhost:{port}"
    assert b"/openapi.json" in exchange(port, get("/docs", "Sec-Fetch-Site: none", host=host)).body
    request = post("/v1/predict", b'{"text": "hi"}', f"Origin: http://{host}", "Sec-Fetch-Site: same-origin", host=host)
    assert exchange(port, request).status == 200


@pytest.mark.parametrize("service", SERVICES)
def test_head_is_answered_like_get_without_a_body(ports: Ports, service: str) -> None:
    for page in PAGES[service]:
        wanted, answer = (exchange(ports[service], get(page, method=method)) for method in ("GET", "HEAD"))
        assert answer.status == wanted.status and answer.body == b""
        assert answer.headers["content-type"] == wanted.headers["content-type"]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_probe_may_send_any_host(ports: Ports, service: str, method: str) -> None:
    assert exchange(ports[service], get("/healthz", host="x", method=method)).status == 200


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_says_whose_home_it_serves(ports: Ports, homes: Path, service: str) -> None:
    home = homes / service
    assert find_owner("127.0.0.1", ports[service], health_sign(service, home)) == "this home"
    assert find_owner("127.0.0.1", ports[service], health_sign(service, homes / "another")) == "another"
    assert str(home).encode() not in exchange(ports[service], get("/healthz")).body


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_bounds_heads(ports: Ports, service: str) -> None:
    answer = exchange(ports[service], get("/metrics", *(f"x-{number}: {'y' * 1000}" for number in range(17))))
    assert (answer.status, answer.code) == (431, "head_size")


@pytest.mark.parametrize("service", POSTS)
def test_every_service_reads_a_compressed_body_and_bounds_it(ports: Ports, service: str) -> None:
    sent = ("Content-Encoding: gzip", f"Authorization: Bearer {TOKEN}")
    bomb = gzip.compress(b" " * 50_000_000)
    assert exchange(ports[service], post(POSTS[service], bomb, *sent)).status == 413
    good = gzip.compress(GOOD[service])
    assert exchange(ports[service], post(POSTS[service], good, *sent)).status in (200, 204)


def refusals(ports: Ports, service: str, reason: str) -> float:
    """Return how many refusals the service has counted for a reason."""
    page = exchange(ports[service], get("/metrics")).body.decode()
    counts = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return float(counts.get(f'evergreen_refused_total{{reason="{reason}"}}', 0))


REFUSED = {
    "host_not_allowed": get("/metrics", host="evil.example.org"),
    "cross_site": get("/metrics", f"Origin: {SITE}"),
    "head_size": get("/metrics", *(f"x-{number}: {'y' * 1000}" for number in range(17))),
    "malformed": b"not HTTP at all\r\n\r\n",
    "content_type": post("/", b"{}", content_type="text/plain"),
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("service", SERVICES)
def test_every_service_counts_a_refusal_by_the_code_of_its_answer(ports: Ports, service: str, reason: str) -> None:
    before = refusals(ports, service, reason)
    assert exchange(ports[service], REFUSED[reason]).code == reason
    assert refusals(ports, service, reason) == before + 1


BAD_BODIES = {
    "body_too_large": (gzip.compress(b" " * 50_000_000), ("Content-Encoding: gzip",)),
    "body_encoding": (b"{}", ("Content-Encoding: br",)),
    "body_damaged": (b"{}", ("Content-Encoding: gzip",)),
}


@pytest.mark.parametrize("reason", BAD_BODIES)
@pytest.mark.parametrize("service", POSTS)
def test_a_body_that_is_refused_while_it_is_read_is_counted(ports: Ports, service: str, reason: str) -> None:
    body, headers = BAD_BODIES[reason]
    before = refusals(ports, service, reason)
    exchange(ports[service], post(POSTS[service], body, *headers, f"Authorization: Bearer {TOKEN}"))
    assert refusals(ports, service, reason) == before + 1


def test_bodies_beyond_the_memory_for_all_of_them_are_counted(tmp_path: Path) -> None:
    params = load_params()
    params = params.model_copy(update={"http": params.http.model_copy(update={"held_body_bytes": 10})})
    with running_gateway(params, tmp_path) as port:
        assert exchange(port, post("/v1/predict", b'{"text": "hello"}')).code == "overloaded"
        assert refusals({"gateway": port}, "gateway", "overloaded") == 1


def test_a_report_that_another_machine_asks_for_is_counted(monkeypatch: pytest.MonkeyPatch, ports: Ports) -> None:
    monkeypatch.setattr(monitor, "is_on_this_host", lambda _request: False)
    before = refusals(ports, "monitor", "another_host")
    assert exchange(ports["monitor"], get("/report.json")).status == 403
    assert refusals(ports, "monitor", "another_host") == before + 1
