"""Who a request is from: by token, or by address without tokens; and rotation while the gateway runs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from serving.access import callers as callers_module
from serving.access.callers import Callers, is_loopback
from serving.access.tokens import add_token, revoke_tokens

NOW = datetime(2026, 11, 29, tzinfo=UTC)
ADDRESS = "192.0.2.7"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture(autouse=True)
def logged() -> Any:
    with capture_logs() as lines:
        yield lines


def bearer(token: str) -> bytes:
    return b"Bearer " + token.encode()


def name_of(callers: Callers, token: str) -> str | None:
    caller = callers.find(bearer(token), ADDRESS, False)
    return caller and caller.name


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)])  # noqa: S104
def test_loopback_is_recognised(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_without_tokens_loopback_serves_one_local_user_with_every_scope(path: Path) -> None:
    caller = Callers(path, "127.0.0.1").find(b"", "127.0.0.1", False)
    assert caller == ("local", {"predict", "label", "admin"}, "local")


def test_without_tokens_what_a_proxy_forwards_is_not_the_local_users(path: Path) -> None:
    caller = Callers(path, "127.0.0.1").find(b"", "127.0.0.1", True)
    assert caller == ("anonymous", {"predict"}, "127.0.0.1")


def test_without_tokens_others_may_only_predict_and_are_told_apart_by_address(path: Path, logged: Any) -> None:
    callers = Callers(path, "0.0.0.0")  # noqa: S104
    assert [line["log_level"] for line in logged] == ["warning"]
    assert callers.find(b"Bearer anything", ADDRESS, False) == ("anonymous", {"predict"}, ADDRESS)


def test_the_addresses_of_one_ipv6_customer_are_one_caller(path: Path) -> None:
    callers = Callers(path, "::")
    keys = [callers.find(b"", address, False).key for address in ("2001:db8:0:1::a", "2001:db8:0:1:ffff::b", "2001:db8:0:2::a")]  # type: ignore[union-attr]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("authorization", [b"", b"Bearer", b"Bearer ", b"Bearer evg_guess", b"Basic %s", b"%s", b"Bearer %s0"])
def test_with_tokens_nobody_is_served_without_a_valid_one(path: Path, host: str, authorization: bytes) -> None:
    token = add_token(path, "shop", ["predict"], NOW)
    callers = Callers(path, host)
    assert callers.has_tokens
    assert callers.find(authorization.replace(b"%s", token.encode()), "127.0.0.1", False) is None
    assert callers.find(b"bearer  " + token.encode(), ADDRESS, False) == ("shop", {"predict"}, "shop")


def test_two_tokens_of_a_name_are_one_caller_until_the_first_is_revoked(path: Path) -> None:
    old = add_token(path, "shop", ["predict"], NOW)
    callers = Callers(path, "0.0.0.0")  # noqa: S104
    new = add_token(path, "shop", ["predict"], NOW)
    assert callers.refresh()
    assert [name_of(callers, token) for token in (old, new)] == ["shop", "shop"]
    revoke_tokens(path, "shop", callers_module.hash_token(old.encode())[:8])
    assert callers.refresh()
    assert [name_of(callers, token) for token in (old, new)] == [None, "shop"]


def test_the_first_token_closes_a_running_gateway(path: Path) -> None:
    callers = Callers(path, "127.0.0.1")
    token = add_token(path, "shop", ["predict"], NOW)
    callers.refresh()
    assert callers.find(b"", "127.0.0.1", False) is None
    assert name_of(callers, token) == "shop"


@pytest.mark.parametrize("damage", ["half", "others may write it", "deleted"])
def test_a_damaged_or_deleted_file_changes_nothing_and_is_logged_once(path: Path, logged: Any, damage: str) -> None:
    token = add_token(path, "shop", ["predict"], NOW)
    callers = Callers(path, "127.0.0.1")
    if damage == "deleted":
        path.unlink()
    elif damage == "half":
        path.write_text(path.read_text()[:40])
    else:
        path.chmod(0o666)
    assert [callers.refresh(), callers.refresh()] == [False, True]  # counted once, and not every second
    assert [line["log_level"] for line in logged] == ["error"]
    assert callers.find(b"", "127.0.0.1", False) is None
    assert name_of(callers, token) == "shop"
    path.unlink(missing_ok=True)
    other = add_token(path, "other", ["predict"], NOW)
    assert callers.refresh()
    assert [name_of(callers, token) for token in (token, other)] == [None, "other"]


def test_a_file_that_has_not_changed_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_token(path, "shop", ["predict"], NOW)
    callers = Callers(path, "127.0.0.1")
    monkeypatch.setattr(callers_module, "read_tokens", lambda _path: pytest.fail("it was read again"))
    assert callers.refresh()


def test_a_secret_of_kubernetes_is_followed_through_its_links(tmp_path: Path) -> None:
    for version in ("first", "second"):
        (tmp_path / version).mkdir()
    old = add_token(tmp_path / "first/tokens.json", "old", ["predict"], NOW)
    new = add_token(tmp_path / "second/tokens.json", "new", ["predict"], NOW)
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "tokens.json").symlink_to("..data/tokens.json")
    callers = Callers(tmp_path / "tokens.json", "0.0.0.0")  # noqa: S104
    (tmp_path / "..next").symlink_to("second")
    (tmp_path / "..next").replace(tmp_path / "..data")  # as the kubelet does it
    assert callers.refresh()
    assert [name_of(callers, token) for token in (old, new)] == [None, "new"]
