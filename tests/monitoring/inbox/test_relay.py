"""The relay: what a webhook answers reaches Alertmanager's log and ours, and its URL does not."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monitoring.channels.settings import Channel
from monitoring.inbox.relay import MAX_ANSWER, post
from tests.http_servers import serving_in_thread

PATH = "/workflows/0f3c9b7a/triggers/manual"
QUERY = "api-version=1&sig=Xy%2Fz0123secret"
CHANNEL = Channel(name="team", kind="webhook", shown="127.0.0.1")


@pytest.mark.parametrize(
    "said",
    [
        "Cannot POST {path}",
        "Cannot POST {path}?{query}",
        "no trigger with sig Xy/z0123secret",
        "no workflow 0f3c9b7a",
        "x" * (MAX_ANSWER - 12) + " {path}",  # a cut leaves no half
    ],
)
def test_a_refusal_that_quotes_the_address_is_passed_on_without_it(said: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(404)
            self.end_headers()
            self.wfile.write(said.format(path=PATH, query=QUERY).encode())

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving_in_thread(server):
        sent = post(f"http://127.0.0.1:{server.server_port}{PATH}?{QUERY}", b"{}", CHANNEL)
    assert sent.status == 404
    assert sent.text.startswith("127.0.0.1 answered HTTP 404: ")
    assert len(sent.text) <= MAX_ANSWER + 40
    for secret in ("/workf", "0f3c", "0123secret"):
        assert secret not in sent.text
