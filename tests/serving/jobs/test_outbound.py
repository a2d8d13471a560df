"""Callbacks reach the open internet and nothing else, whatever a URL, a name server or a receiver answers."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.params import Jobs, Params
from serving.jobs.outbound import (
    CallbackRefusedError,
    IsAllowed,
    Resolve,
    allowed_addresses,
    check_url,
    is_public,
    open_post,
    resolve,
)
from tests.refusals import error_of
from tests.serving.jobs.receiver import receiving

GOOD, BAD = "127.0.0.1", "127.0.0.2"  # stand for a public and a private address: both reach this machine


def only_good(address: str) -> bool:
    return address == GOOD


def answers(*addresses: str) -> Resolve:
    return lambda _host, _port: list(addresses)


async def send(
    url: str,
    *,
    names: Resolve = answers(GOOD),  # noqa: B008  # a function
    is_allowed: IsAllowed = only_good,
    timeout_s: float = 10,
    tls: ssl.SSLContext | None = None,
) -> int:
    context = tls or ssl.create_default_context()
    async with open_post(timeout_s=timeout_s, is_allowed=is_allowed, resolve=names, tls=context) as post:
        return await post(url, b"{}", {"X-Test": "yes"})


@pytest.fixture
def settings(params: Params) -> Jobs:
    return params.jobs


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/a?b=c",
        "http://hooks.example.com:8080",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:8443/",
        "https://a.localhost.example.com/",
        "https://hooks.example.com/@user",
    ],
)
def test_a_public_url_may_be_called(settings: Jobs, url: str) -> None:
    assert error_of(check_url, url, settings) == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "//hooks.example.com/",
        "hooks.example.com",
        "http://",
        "http:///path",
        "http://user@hooks.example.com/",
        "http://user:word@hooks.example.com/",
        "http://@hooks.example.com/",
        "http://:@hooks.example.com?a",
        "http://hooks.example.com:99999/",
        "http://hooks.example.com:port/",
        "http://[::1",
        "http://hooks.example.com/ ",
        "http://hooks.example.com/\r\nHost: other",
        "http://hooks.example.com/\0",
        "http://пример.рф/",
        "http://hooks.example.com/" + "a" * 2048,
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7F.0.0.1/",
        "http://0177.0.0.1/",
        "http://hooks.example.1/",
    ],
)
def test_an_unusable_url_is_refused(settings: Jobs, url: str) -> None:
    for private in ("refuse", "allow"):
        with pytest.raises(CallbackRefusedError):
            check_url(url, settings.model_copy(update={"callback_private": private}))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.0.0.1.", "10.0.0.1", "169.254.169.254"),
        *("0.0.0.0", "[::1]", "[::ffff:10.0.0.1]", "[fd00::1]", "[fe80::1]", "[::]"),  # noqa: S104
    ],
)
def test_a_private_host_is_refused_unless_allowed(settings: Jobs, host: str) -> None:
    with pytest.raises(CallbackRefusedError, match=r"jobs\.callback_private: allow"):
        check_url(f"http://{host}:8080/", settings)
    assert error_of(check_url, f"http://{host}:8080/", settings.model_copy(update={"callback_private": "allow"})) == ""


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),  # noqa: S104
        *("100.64.0.1", "192.0.0.192", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fec0::1", "ff0e::1", "2001:db8::1", "::7f00:1"),
        *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::"),
    ],
)
def test_every_other_address_is_not(address: str) -> None:
    assert not is_public(address)


def test_the_request_has_the_name_and_the_connection_the_address() -> None:
    async def run() -> None:
        resolved: list[tuple[str, int]] = []

        def names(host: str, port: int) -> list[str]:
            resolved.append((host, port))
            return [GOOD]

        async with receiving() as receiver:
            assert await send(f"http://hooks.example:{receiver.port}/a?b=c", names=names) == 204
        assert resolved == [("hooks.example", receiver.port)]
        (request,) = receiver.requests
        assert (request.path, request.body, request.headers["Host"]) == ("/a?b=c", b"{}", f"hooks.example:{receiver.port}")
        assert request.headers["X-Test"] == "yes"

    asyncio.run(run())


def test_a_name_that_changes_its_mind_after_the_check_gains_nothing() -> None:
    async def run() -> None:
        lookups = 0

        def rebind(_host: str, _port: int) -> list[str]:
            nonlocal lookups
            lookups += 1
            return [GOOD] if lookups == 1 else [BAD]

        async with receiving() as good, receiving(host=BAD, port=good.port) as bad:
            url = f"http://hooks.example:{good.port}/"
            async with open_post(timeout_s=10, is_allowed=only_good, resolve=rebind, tls=ssl.create_default_context()) as post:
                assert await post(url, b"", {}) == 204  # resolved once: the second answer was never requested
                with pytest.raises(CallbackRefusedError):
                    await post(url, b"", {})  # resolved again, and refused
            assert (len(good.requests), len(bad.requests), lookups) == (1, 0, 2)

    asyncio.run(run())


@pytest.mark.parametrize("addresses", [(BAD,), (GOOD, BAD), (BAD, GOOD)])
def test_one_private_address_among_many_is_enough_to_refuse(addresses: tuple[str, ...]) -> None:
    async def run() -> None:
        async with receiving() as good, receiving(host=BAD, port=good.port) as bad:
            with pytest.raises(CallbackRefusedError):
                await send(f"http://hooks.example:{good.port}/", names=answers(*addresses))
            assert not good.requests + bad.requests

    asyncio.run(run())


@pytest.mark.parametrize("host", [BAD, "[::ffff:127.0.0.2]", "2130706434", "127.2", "0x7f.2"])
def test_an_address_in_the_url_is_held_to_the_same_rule(host: str) -> None:
    async def run() -> None:
        async with receiving(host=BAD) as bad:
            with pytest.raises((CallbackRefusedError, aiohttp.InvalidURL)):
                await send(f"http://{host}:{bad.port}/", names=resolve)
            assert not bad.requests

    asyncio.run(run())


@pytest.mark.parametrize("private", ["refuse", "allow"])
def test_this_machine_is_reached_only_when_params_allow_it(settings: Jobs, private: str) -> None:
    rule = allowed_addresses(settings.model_copy(update={"callback_private": private}))

    async def run() -> None:
        async with receiving() as receiver:
            url = f"http://localhost:{receiver.port}/"
            if private == "allow":
                assert await send(url, names=resolve, is_allowed=rule) == 204
            else:
                with pytest.raises(CallbackRefusedError):
                    await send(url, names=resolve, is_allowed=rule)
            assert len(receiver.requests) == (private == "allow")

    asyncio.run(run())


def test_a_redirect_is_not_followed() -> None:
    async def run() -> None:
        async with receiving(host=BAD) as bad:

            async def redirect(_request: web.Request) -> web.StreamResponse:
                return web.Response(status=307, headers={"Location": f"http://{BAD}:{bad.port}/"})

            async with receiving(redirect) as good:
                assert await send(f"http://hooks.example:{good.port}/", is_allowed=lambda _address: True) == 307
                assert (len(good.requests), len(bad.requests)) == (1, 0)

    asyncio.run(run())


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with receiving() as good, receiving(host=BAD) as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://{BAD}:{proxy.port}")
            assert await send(f"http://hooks.example:{good.port}/") == 204
            assert not proxy.requests

    asyncio.run(run())


async def _never(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


@pytest.mark.parametrize(("reply", "status"), [(_never, None), (_endless, 200)])
def test_a_receiver_cannot_block_us(reply: Callable[[web.Request], Awaitable[web.StreamResponse]], status: int | None) -> None:
    async def run() -> None:
        async with receiving(reply) as receiver:
            url = f"http://hooks.example:{receiver.port}/"
            if status is None:
                with pytest.raises(TimeoutError):
                    await send(url, timeout_s=0.2)
            else:
                assert await send(url) == status

    asyncio.run(run())


def test_a_name_server_cannot_block_us_either() -> None:
    answered = threading.Event()

    def slow(_host: str, _port: int) -> list[str]:
        answered.wait(60)
        return [GOOD]

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await send("http://hooks.example/", names=slow, timeout_s=0.2)

    try:
        asyncio.run(run())
    finally:
        answered.set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the name hooks.example and for the address GOOD, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example"), x509.IPAddress(ip_address(GOOD))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


@pytest.mark.parametrize(("host", "is_named"), [("hooks.example", True), ("other.example", False)])
def test_tls_verifies_the_name_though_the_connection_goes_to_an_address(
    certificate: tuple[Path, Path], host: str, is_named: bool
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    client = ssl.create_default_context(cafile=str(certificate[0]))

    async def run() -> None:
        async with receiving(tls=server) as receiver:
            url = f"https://{host}:{receiver.port}/"
            if is_named:
                assert await send(url, tls=client) == 204
            else:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await send(url, tls=client)
            assert len(receiver.requests) == is_named

    asyncio.run(run())
