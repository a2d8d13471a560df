"""Forwarding headers count only from trusted proxies, and then as far as trusted proxies wrote them."""

from typing import Any

import pytest

from serving.access.proxies import TrustedProxies

PROXY, OTHER_PROXY, CLIENT, FORGED = "10.0.0.1", "10.0.0.2", "192.0.2.7", "198.51.100.9"


def resolved(networks: list[str], peer: str, *headers: tuple[str, str]) -> dict[str, Any]:
    scope = {
        "client": (peer, 5000),
        "scheme": "http",
        "headers": [(b"host", b"inside:8080"), *((name.encode(), value.encode()) for name, value in headers)],
    }
    TrustedProxies(networks).resolve(scope)
    return scope


FORWARDED = (("x-forwarded-for", CLIENT), ("x-forwarded-proto", "https"), ("x-forwarded-host", "api.example.com"))


@pytest.mark.parametrize(
    ("networks", "peer"), [([], "127.0.0.1"), ([], PROXY), (["10.0.0.0/8"], CLIENT), (["10.0.0.0/8"], "::1")]
)
def test_the_headers_of_any_other_peer_change_nothing(networks: list[str], peer: str) -> None:
    scope = resolved(networks, peer, *FORWARDED)
    assert (scope["client"][0], scope["scheme"], dict(scope["headers"])[b"host"]) == (peer, "http", b"inside:8080")


@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}"])
def test_a_trusted_proxy_names_client_scheme_and_host(peer: str) -> None:
    scope = resolved(["10.0.0.0/8"], peer, *FORWARDED)
    assert (scope["client"][0], scope["scheme"]) == (CLIENT, "https")
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"api.example.com"]


@pytest.mark.parametrize(
    "headers",
    [
        [f"{FORGED}, {CLIENT}"],
        [f"{FORGED}, {CLIENT}, {OTHER_PROXY}"],
        [FORGED, f"{CLIENT}, {OTHER_PROXY}"],  # a header that is repeated is one list
        [f"{FORGED}, {CLIENT}:4711"],
    ],
)
def test_what_the_client_itself_wrote_is_not_believed(headers: list[str]) -> None:
    scope = resolved(["10.0.0.0/8"], PROXY, *(("x-forwarded-for", value) for value in headers))
    assert scope["client"][0] == CLIENT


@pytest.mark.parametrize("value", ["", "unknown", "\x1b[2J", "1.2.3.4.5", f"{FORGED}, _hidden"])
def test_what_is_no_address_leaves_the_proxys(value: str) -> None:
    assert resolved(["10.0.0.0/8"], PROXY, ("x-forwarded-for", value))["client"][0] == PROXY


def test_an_unknown_scheme_is_not_believed() -> None:
    assert resolved(["10.0.0.0/8"], PROXY, ("x-forwarded-proto", "javascript"))["scheme"] == "http"


@pytest.mark.parametrize(("value", "expected"), [("[2001:db8::1]:443", "2001:db8::1"), ("2001:db8::1", "2001:db8::1")])
def test_addresses_of_ipv6_are_read_with_and_without_a_port(value: str, expected: str) -> None:
    assert resolved([PROXY], PROXY, ("x-forwarded-for", value))["client"][0] == expected
