"""A proxy of the environment is never asked for this machine."""

import urllib.request

import pytest
from requests.utils import should_bypass_proxies

from pipeline.loopback import bypass_proxies

NEVER = "http://127.0.0.1:9"


@pytest.mark.parametrize("before", ["", "intranet", "intranet,localhost"])
def test_this_machine_is_exempt_and_what_was_exempt_stays(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NEVER)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, before)
    bypass_proxies()
    bypass_proxies()
    for host in ("127.0.0.1:8000", "localhost", "::1", *filter(None, before.split(","))):
        assert urllib.request.proxy_bypass(host), host
    assert should_bypass_proxies("http://127.0.0.1:5000/", no_proxy=None)
    assert not urllib.request.proxy_bypass("example.org")
