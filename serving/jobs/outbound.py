"""Which addresses a callback may reach, and a POST that holds itself to them. Knows nothing of jobs.

A name is resolved once for each delivery, all of its addresses must be permitted, and the connection goes to one of just these:
a name that answers differently the second time (DNS rebinding) gains nothing. TLS still verifies the name.
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

Lookup = Callable[[str, int], list[str]]  # host, port -> addresses; blocks; raises OSError
Permitted = Callable[[str], bool]  # address -> may a callback go there
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]  # url, body, headers -> HTTP status

VISIBLE_ASCII = re.compile(r"[\x21-\x7e]{1,2048}")
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)
SHORTHAND = re.compile(r"(\d+|0x[0-9a-f]*)", re.IGNORECASE)  # 127.1 and 0x7f000001 are addresses to the system's resolver
LOOKUPS_AT_A_TIME = 8  # in threads of their own: slow name servers must not hold up the threads of the database
NAT64 = IPv6Network("64:ff9b::/96")
PROTOCOL_ASSIGNMENTS = IPv4Network("192.0.0.0/24")  # partly global by the letter; one cloud keeps its metadata service here


class CallbackRefusedError(EvergreenError):
    """A callback URL that is never sent to; the gateway's 422."""

    def __init__(self, what: str) -> None:
        super().__init__("callback_url", what, "give a public http or https address, without a user name")


def check_url(url: str, settings: Jobs) -> None:
    """Raise `CallbackRefusedError` for a URL that no delivery could use; a name is resolved only when it is sent to."""
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
    is_local = host == "localhost" or host.endswith(".localhost") if address is None else not permitted(settings)(host)
    if is_local and settings.callback_private == "refuse":
        raise CallbackRefusedError("this is a private address")


def permitted(settings: Jobs) -> Permitted:
    """The rule of `jobs.callback_private`."""
    return is_public if settings.callback_private == "refuse" else lambda _address: True


def is_public(address: str) -> bool:
    """Whether this is an address of the open internet; of one that carries an IPv4 address, whether that one is."""
    parsed = ip_address(address.partition("%")[0])
    judged = _carried(parsed) or parsed
    if isinstance(judged, IPv6Address) and judged.is_site_local:
        return False
    return judged.is_global and not (judged.is_multicast or judged.is_reserved or judged in PROTOCOL_ASSIGNMENTS)


def look_up(host: str, port: int) -> list[str]:
    """All addresses of a name, as the system resolves it."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@asynccontextmanager
async def open_post(*, timeout_s: float, permitted: Permitted, lookup: Lookup, tls: ssl.SSLContext) -> AsyncIterator[Post]:
    """A POST that goes to permitted addresses only, follows no redirect, keeps no cookie and reads no more than the status.

    It raises `CallbackRefusedError` for an address that is not permitted, and `OSError`, `aiohttp.ClientError` or `TimeoutError`
    when there is no answer within `timeout_s`, resolving included.
    """

    def open_socket(target: Any) -> socket.socket:
        _require(permitted, target[4][0])  # the last look: also at an address that stood in the URL and was never resolved
        return socket.socket(*target[:3])

    pool = ThreadPoolExecutor(LOOKUPS_AT_A_TIME, thread_name_prefix="lookup")
    connector = aiohttp.TCPConnector(
        resolver=_CheckedResolver(lookup, permitted, pool),
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
    """Hands aiohttp only the addresses of a name all of whose addresses are permitted."""

    def __init__(self, lookup: Lookup, permitted: Permitted, pool: ThreadPoolExecutor) -> None:
        self._lookup, self._permitted, self._pool = lookup, permitted, pool

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        addresses = await asyncio.get_running_loop().run_in_executor(self._pool, self._lookup, host, port)
        if not addresses:
            raise OSError(f"{host} has no address")
        for address in addresses:
            _require(self._permitted, address)
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
        """Nothing is held."""


def _require(permitted: Permitted, address: str) -> None:
    if not permitted(address):
        raise CallbackRefusedError("this leads to a private address")


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that stands in a URL in place of a name."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _carried(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside of an IPv6 one: mapped, 6to4 or NAT64."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
