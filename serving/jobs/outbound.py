"""Decides which addresses a callback may reach, and restricts a POST to them. Knows nothing of jobs.

A name is resolved once for each delivery, all of its addresses must be allowed, and the connection goes to one of them: a name
that resolves differently the second time (DNS rebinding) gains nothing. TLS still verifies the name.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pipeline.errors import EvergreenError
from pipeline.params import Jobs

Resolve = Callable[[str, int], list[str]]  # host, port -> addresses; blocks; raises OSError
IsAllowed = Callable[[str], bool]  # address -> whether a callback may go there
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]  # url, body, headers -> HTTP status

VISIBLE_ASCII = re.compile(r"[\x21-\x7e]{1,2048}")
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)
SHORTHAND = re.compile(r"(\d+|0x[0-9a-f]*)", re.IGNORECASE)  # the system's resolver takes 127.1 and 0x7f000001 for addresses
MAX_LOOKUPS = 8  # in their own threads: slow name servers must not block the threads of the database
ALLOW_PRIVATE = "give a public address, or set jobs.callback_private: allow in params.yaml of the gateway"
NAT64 = IPv6Network("64:ff9b::/96")
PROTOCOL_ASSIGNMENTS = IPv4Network("192.0.0.0/24")  # partly global by definition; one cloud has its metadata service here


class CallbackRefusedError(EvergreenError):
    """A callback URL that is never called; the gateway's 422."""

    def __init__(self, what: str, fix: str = "give a public http or https address, without a user name") -> None:
        super().__init__("callback_url", what, fix)


def check_url(url: str, settings: Jobs) -> None:
    """Raise `CallbackRefusedError` for a URL that no delivery can use; a name is resolved only at delivery."""
    if not VISIBLE_ASCII.fullmatch(url):
        raise CallbackRefusedError("this is not 1 to 2048 visible ASCII characters")
    try:
        parsed = URL(url)
        host = (parsed.host or "").rstrip(".")
    except ValueError:
        raise CallbackRefusedError("this is not a URL") from None
    if parsed.scheme not in ("http", "https") or not host:
        raise CallbackRefusedError("this is not an http or https URL with a host")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise CallbackRefusedError("there are credentials in this URL")
    address = _literal(host)
    if address is None and not HOST.fullmatch(host):
        raise CallbackRefusedError("this is not the name of a host")
    if address is None and SHORTHAND.fullmatch(host.rpartition(".")[2]):
        raise CallbackRefusedError("this address is not written in full")
    is_local = host == "localhost" or host.endswith(".localhost") if address is None else not allowed_addresses(settings)(host)
    if is_local and settings.callback_private == "refuse":
        raise CallbackRefusedError("this is a private address", ALLOW_PRIVATE)


def allowed_addresses(settings: Jobs) -> IsAllowed:
    """Return the rule of `jobs.callback_private`."""
    return is_public if settings.callback_private == "refuse" else lambda _address: True


def is_public(address: str) -> bool:
    """Return whether an address, or the IPv4 address embedded in it, belongs to the open internet."""
    parsed = ip_address(address.partition("%")[0])
    target = _embedded_ipv4(parsed) or parsed
    if isinstance(target, IPv6Address) and target.is_site_local:
        return False
    return target.is_global and not (target.is_multicast or target.is_reserved or target in PROTOCOL_ASSIGNMENTS)


def resolve(host: str, port: int) -> list[str]:
    """Return all addresses of a name, as the system resolves it."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@asynccontextmanager
async def open_post(*, timeout_s: float, is_allowed: IsAllowed, resolve: Resolve, tls: ssl.SSLContext) -> AsyncIterator[Post]:
    """Yield a POST that reaches allowed addresses only, follows no redirect, keeps no cookie and reads only the status.

    It raises `CallbackRefusedError` for an address that is not allowed, and `OSError`, `aiohttp.ClientError` or `TimeoutError`
    when there is no answer within `timeout_s`, name resolution included.
    """

    def open_socket(info: Any) -> socket.socket:
        _require(is_allowed, info[4][0])  # the last check: also of an address in the URL itself, which is never resolved
        return socket.socket(*info[:3])

    pool = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="lookup")
    connector = aiohttp.TCPConnector(
        resolver=_CheckedResolver(resolve, is_allowed, pool),
        socket_factory=open_socket,
        use_dns_cache=False,
        force_close=True,
        ssl=tls,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )

    async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status

    try:
        async with session:
            yield post
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _CheckedResolver(AbstractResolver):
    """Gives aiohttp the addresses of a name, if all of them are allowed."""

    def __init__(self, resolve: Resolve, is_allowed: IsAllowed, pool: ThreadPoolExecutor) -> None:
        self._resolve, self._is_allowed, self._pool = resolve, is_allowed, pool

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        addresses = await asyncio.get_running_loop().run_in_executor(self._pool, self._resolve, host, port)
        if not addresses:
            raise OSError(f"{host} has no address")
        for address in addresses:
            _require(self._is_allowed, address)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for address in addresses
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _require(is_allowed: IsAllowed, address: str) -> None:
    if not is_allowed(address):
        raise CallbackRefusedError("this leads to a private address", ALLOW_PRIVATE)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a URL has in place of a name."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _embedded_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address inside an IPv6 one: mapped, 6to4 or NAT64."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
