"""Raw HTTP/1.1 over a socket: what a client library would not send."""

import json
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

WAIT_S = 20.0  # the longest that any test waits for an answer


class RawAnswer(NamedTuple):
    """The first answer on a connection; status 0: the connection ended without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error."""
        return str(json.loads(self.body)["error"]["code"])


def connect(port: int, *, source: str = "127.0.0.1") -> socket.socket:
    """Open a connection; every address in 127.0.0.0/8 is a peer of its own."""
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_S, source_address=(source, 0))


def exchange(port: int, request: bytes, *, source: str = "127.0.0.1") -> RawAnswer:
    """Send bytes on a new connection and return the answer to them."""
    with connect(port, source=source) as connection:
        connection.sendall(request)
        return read_answer(connection, has_body=not request.startswith(b"HEAD"))


def read_answer(connection: socket.socket, *, has_body: bool = True) -> RawAnswer:
    """Read the next answer of a connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = _receive(connection)
        if not part:
            return RawAnswer(0, {}, b"")
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while has_body and len(body) < int(headers.get("content-length", 0)) and (part := _receive(connection)):
        body += part
    return RawAnswer(int(first.split()[1]), headers, body)


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server has closed the connection; False when it sends something instead."""
    return _receive(connection) == b""


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def get(path: str = "/", *headers: str, host: str = "127.0.0.1", method: str = "GET") -> bytes:
    """Return a request without a body."""
    return _head(f"{method} {path} HTTP/1.1", host, headers)


def post(path: str, body: bytes, *headers: str, host: str = "127.0.0.1", content_type: str = "application/json") -> bytes:
    """Return a request with a body and its length."""
    named = [*headers, f"Content-Length: {len(body)}", *([f"Content-Type: {content_type}"] if content_type else [])]
    return _head(f"POST {path} HTTP/1.1", host, named) + body


def chunked(path: str, body: bytes, *headers: str, trailers: bytes = b"") -> bytes:
    """Return a request with a body in one chunk."""
    named = [*headers, "Transfer-Encoding: chunked", "Content-Type: application/json"]
    return _head(f"POST {path} HTTP/1.1", "127.0.0.1", named) + b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, trailers)


def _head(first: str, host: str, headers: Iterable[Any]) -> bytes:
    return "\r\n".join([first, f"Host: {host}", *headers, "", ""]).encode("latin-1")
