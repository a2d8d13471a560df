"""What stands at the other end of a channel: HTTPS and SMTP servers with a certificate of their own that record what they get."""

import ipaddress
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSWORD = "correct horse"
ANSWERS = {
    "/ok": (200, "ok"),
    "/gone": (404, "no_service"),
    "/busy": (429, "slow down"),
    "/broken": (503, "down"),
    "/moved": (302, ""),
}


class Certificate(NamedTuple):
    """Files in PEM: the certificate with its key, and the certificate alone."""

    both: Path
    public: Path


def make_certificate(folder: Path) -> Certificate:
    """Make a certificate of this machine that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2045, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = certificate.public_bytes(serialization.Encoding.PEM)
    folder.mkdir(parents=True)
    made = Certificate(folder / "both.pem", folder / "public.pem")
    made.both.write_bytes(secret + public)
    made.public.write_bytes(public)
    return made


def server_context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.both)
    return context


class Hook(HTTPServer):
    """A webhook: its answer follows from the path."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(("127.0.0.1", 0), HookHandler)
        self.socket = server_context(certificate).wrap_socket(self.socket, server_side=True)
        self.bodies: list[dict[str, Any]] = []

    def handle_error(self, *_: Any) -> None:
        """Say nothing about a client that does not trust the certificate."""

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.server_port}{path}"


class HookHandler(BaseHTTPRequestHandler):
    """Records a POST."""

    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, text = ANSWERS[self.path.partition("?")[0]]
        if status == 200 and "This is a test" in str(body):  # real alerts of the running programs come too
            self.server.bodies.append(body)
        self.send_response(status)
        self.send_header("location", self.server.url("/ok"))
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class MailServer(socketserver.ThreadingTCPServer):
    """An SMTP server with STARTTLS and accounts; it takes mail for @example.org."""

    daemon_threads = True

    def __init__(self, certificate: Certificate, *, offers_tls: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), MailSession)
        self.context, self.offers_tls = server_context(certificate), offers_tls
        self.mails: list[tuple[bool, bool, str]] = []  # over TLS, with an account, text

    @property
    def address(self) -> str:
        return f"localhost:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing about a client that hangs up."""


class MailSession(socketserver.StreamRequestHandler):
    """One connection."""

    server: MailServer

    def handle(self) -> None:
        self.is_tls = self.has_account = False
        self.say("220 mail.example.org")
        while line := self.rfile.readline().decode().strip():
            if not self.command(*line.partition(" ")[::2], line):
                return

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
        self.wfile.flush()

    def command(self, verb: str, rest: str, line: str) -> bool:
        match verb.upper():
            case "EHLO":
                offers = ["STARTTLS"] if self.server.offers_tls and not self.is_tls else []
                for offer in ["mail.example.org", *offers]:
                    self.say(f"250-{offer}")
                self.say("250 AUTH PLAIN LOGIN")
            case "STARTTLS":
                self.say("220 go ahead")
                self.request = self.server.context.wrap_socket(self.request, server_side=True)
                self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb")
                self.is_tls = True
            case "AUTH":
                self.authenticate(rest)
            case "RCPT" if "@example.org" not in line:
                self.say("550 5.1.1 no such user here")
            case "DATA":
                self.say("354 end with a dot")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                text = "\n".join(lines)
                self.server.mails += [(self.is_tls, self.has_account, text)] if "This is a test" in text else []
                self.say("250 taken")
            case "QUIT":
                self.say("221 bye")
                return False
            case _:
                self.say("250 ok")
        return True

    def authenticate(self, rest: str) -> None:
        """Take PLAIN and LOGIN."""
        import base64

        method, _, given = rest.partition(" ")
        if method.upper() == "LOGIN":
            self.say("334 VXNlcm5hbWU6")
            self.rfile.readline()
            self.say("334 UGFzc3dvcmQ6")
            given = self.rfile.readline().decode().strip()
        password = base64.b64decode(given).decode().split("\0")[-1]
        self.has_account = password == PASSWORD
        self.say("235 welcome" if self.has_account else "535 5.7.8 wrong user or password")


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
