"""Addresses behind proxies: `X-Forwarded-*` counts only when the peer is a proxy that the settings trust."""

import ipaddress
from collections.abc import Iterator, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SCHEMES = (b"http", b"https")


class TrustedProxies:
    """The networks of proxies whose forwarding headers are believed."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks: list[Network] = [ipaddress.ip_network(network) for network in networks]
        self._trusts = lru_cache(maxsize=4096)(self._is_inside)

    def resolve(self, scope: MutableMapping[str, Any]) -> None:
        """Replace the scope's client, scheme and host by those that a trusted proxy forwarded.

        The client is the last address of `X-Forwarded-For` that is no trusted proxy: what stands before it came from the
        client itself, who may write anything there.
        """
        if not self._networks:
            return
        peer = str((scope.get("client") or ("",))[0])
        if not self._trusts(peer):
            return
        scope["client"] = (self._client(peer, b",".join(_values(scope, b"x-forwarded-for"))), 0)
        for scheme in _values(scope, b"x-forwarded-proto"):
            if scheme in SCHEMES:
                scope["scheme"] = scheme.decode()
        if hosts := list(_values(scope, b"x-forwarded-host")):
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [(b"host", hosts[-1]), *others]

    def _client(self, peer: str, forwarded: bytes) -> str:
        client = peer
        for hop in reversed(forwarded.decode("latin1").split(",")):
            address = _address(hop.strip())
            if address is None:
                break
            client = str(address)
            if not self._trusts(client):
                break
        return client

    def _is_inside(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)


def _values(scope: MutableMapping[str, Any], wanted: bytes) -> Iterator[bytes]:
    yield from (value.strip() for name, value in scope["headers"] if name == wanted)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address, with or without a port; an IPv4 address inside IPv6 is the IPv4 address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
