"""Make forged requests: with rights of others, from foreign pages, with hostile texts; and requests of foreign clients."""

import gzip
import json
from collections.abc import Mapping, Sequence
from itertools import cycle

from tests.faults.intrusion.attacks import as_json, request

H2C = ("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA", "Upgrade: h2c")


def unauthorised(path: str, body: bytes, tokens: Mapping[str, str]) -> list[bytes]:
    """Return the request with the credentials of each caller who may not send it."""
    unfit = ["", "wrong", "evg_" + "A" * 43, tokens["former"], tokens["curious"], "\udcff\udcfe"]
    with_basic = request(path, body, "Authorization: Basic YWRtaW46YWRtaW4=")
    with_many_headers = request(path, body, "X-Evergreen-Scope: admin", "Authorization: Bearer", "X-Forwarded-For: 127.0.0.1")
    return [*(request(path, body, token=token) for token in unfit), with_basic, with_many_headers]


def forged_labels(genuine: Sequence[dict[str, str]], forgers: Sequence[str]) -> list[bytes]:
    """Return labels on ids that no gateway issued: invented, or genuine with one changed character."""
    label = genuine[0]["label"]
    ids = [f"{n:032x}" for n in range(60)] + ["1", "../../state.db", "' OR 1=1 --", "\x00", "x" * 400]
    for entry in genuine:
        id = entry["id"]
        ids += [id[:-1] + ("0" if id[-1] != "0" else "1"), ("f" if id[0] != "f" else "0") + id[1:], id + "0", id.upper() + " "]
    return [
        request("/v1/feedback", as_json(id=id, label=label), token=token) for id, token in zip(ids, cycle(forgers), strict=False)
    ]


def broken_requests() -> list[bytes]:
    head = b"GET /v1/routes HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    return [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        head + b"Content-Length: -1\r\n\r\n",
        head + b"Bad Header: x\r\n\r\n",
        b"GET /v1/routes HTTP/9.9\r\n\r\n",
        b"\x00" * 512,
    ]


def hostile_requests(token: str) -> list[bytes]:
    """Return hostile texts as JSON escapes and as raw characters, and hostile values of headers that are logged or returned."""
    escaped = [as_json(text=text) for text in hostile_texts()]
    raw = [json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "surrogatepass") for text in hostile_texts()]
    names = ("X-Request-Id", "X-Correlation-Id", "User-Agent", "Idempotency-Key")
    values = ("\x1b[31mred", "[/]", "\u202eevil")
    text = as_json(text="where is my parcel?")
    headers = [request("/v1/predict", text, f"{name}: {value}", token=token) for name in names for value in values]
    return [*(request("/v1/predict", body, token=token) for body in (*escaped, *raw)), *headers]


def clients(text: bytes, token: str) -> list[bytes]:
    """Return requests of clients in other languages: h2c of Java, a byte order mark of .NET, gzip, HTTP/1.0, HEAD."""
    content_type = "Content-Type: application/json"
    chunked = request("/v1/predict", None, *H2C, "Transfer-Encoding: chunked", content_type, method="POST", token=token)
    return [
        request("/v1/predict", text, *H2C, token=token),
        chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text),
        request("/v1/predict", b"\xef\xbb\xbf" + text, token=token),
        request("/v1/predict", gzip.compress(text), "Content-Encoding: gzip", token=token),
        request("/v1/predict", text, token=token).replace(b"HTTP/1.1", b"HTTP/1.0"),
        request("/healthz", method="HEAD"),
        request("/readyz", method="HEAD"),
    ]


def cross_site(path: str, body: bytes, token: str) -> list[bytes]:
    """Return requests that pages of other sites can make a browser send, under their name or ours."""
    return [
        request(path, body, host="evil.example", token=token),
        request(path, body, host="127.0.0.1.evil.example", token=token),
        request(path, body, "Origin: https://evil.example", token=token),
        request(path, body, "Origin: null", token=token),
        request(path, body, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", token=token),
        request(path, body, token=token, content_type="text/plain"),
        request(path, body, token=token, content_type="application/x-www-form-urlencoded"),
        request(path, b"--x\r\n", token=token, content_type="multipart/form-data; boundary=x"),
    ]


def hostile_texts() -> list[str]:
    """Return texts that change a terminal, a log or a parser that does not treat them as plain text."""
    return [
        "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J",
        "‮evil‬ ⁦isolated⁩",
        "[bold]markup[/bold] [/] [link=file:///etc/passwd]x[/link]",
        "line\r\nSet-Cookie: x=1\r\n\r\nHTTP/1.1 200 OK",
        '{"level":"error","event":"forged"}\n{"level":"error"}',
        "nul \x00 and bell \x07",
        "lone \ud83d surrogate",
        "z" + "̈" * 5000,
        "'; DROP TABLE feedback; --",
        "../../../../etc/passwd ${jndi:ldap://x} $(reboot) `id`",
    ]


def administration(version: int) -> list[bytes]:
    """Return requests that only Triton's administrator may send, without a key and with wrong keys."""
    model = f"/v2/models/intent-{version}"
    requests = [
        (f"/v2/repository/models/intent-{version}/unload", b"{}"),
        (f"/v2/repository/models/intent-{version}/load", as_json(parameters={"file:1/model.py": "eA=="})),
        ("/v2/repository/index", b"{}"),
        ("/v2/systemsharedmemory/region/x/register", as_json(key="/x", offset=0, byte_size=64)),
        ("/v2/cudasharedmemory/unregister", b"{}"),
        ("/v2/trace/setting", as_json(trace_level=["TIMESTAMPS"], trace_file="/tmp/x")),  # noqa: S108 (what an intruder names)
        (f"{model}/trace/setting", as_json(trace_level=["TIMESTAMPS"])),
        ("/v2/logging", as_json(log_file="/tmp/x")),  # noqa: S108
    ]
    keys = ((), ("evergreen-admin: wrong",), ("evergreen-admin: ",))
    return [request(path, body, *headers) for path, body in requests for headers in keys]
