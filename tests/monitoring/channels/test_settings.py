"""Channels and secrets are kept for their owner alone; a secret that is no secret, or no URL, is refused without being quoted."""

import os
import stat
from pathlib import Path

import pytest

from monitoring.channels.given_secrets import read_secret, read_url
from monitoring.channels.mail import checked_addresses, checked_server
from monitoring.channels.settings import Channel, put_channel, read_channels, remove_channel, secret_file
from pipeline.errors import InputError

URL = "https://hooks.slack.com/services/T0/B0/hidden-part"
SLACK = Channel(name="slack", kind="slack", shown="hooks.slack.com")


def private_file(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "given"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("content", [URL, f"{URL}\n", f"  {URL}\r\n"])
def test_a_url_is_read_without_the_blanks_around_it(content: str, tmp_path: Path) -> None:
    assert read_url("--url-file", private_file(tmp_path, content.encode())) == (URL, "hooks.slack.com")


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (b"", 0o600, "empty"),
        (b" \n\n", 0o600, "empty"),
        (URL.encode() + b"\n" + URL.encode(), 0o600, "several lines"),
        (URL.encode() + b"\0", 0o600, "control characters"),
        (b"https://hooks.slack.com/services/T0 /B0/hidden-part", 0o600, "not one URL"),
        (b"hooks.slack.com/hidden-part", 0o600, "not one URL"),
        (b"https:///hidden-part", 0o600, "not one URL"),
        (b"https://hooks.slack.com:port/hidden-part", 0o600, "not one URL"),
        (b"ftp://hooks.slack.com/hidden-part", 0o600, "not one URL"),
        ("https://hooks.släck.com/hidden-part".encode(), 0o600, "not one URL"),
        (b"http://hooks.slack.com/hidden-part", 0o600, "begins with http://"),
        (b"http://127.0.0.1.example.org/hidden-part", 0o600, "begins with http://"),
        (b"https://me:hidden-part@hooks.slack.com/", 0o600, "user name"),
        (b"\xff\xfe hidden-part", 0o600, "UTF-8"),
        (URL.encode() * 100, 0o600, "several lines"),
        (URL.encode(), 0o640, "mode 0640"),
        (URL.encode(), 0o604, "other users"),
    ],
)
def test_what_is_no_secret_url_is_refused_without_being_quoted(content: bytes, mode: int, problem: str, tmp_path: Path) -> None:
    path = private_file(tmp_path, content, mode)
    with pytest.raises(InputError, match=problem) as caught:
        read_url("--url-file", path)
    assert caught.value.where == f"--url-file {path}"
    assert "hidden-part" not in str(caught.value)


def test_http_is_allowed_on_this_machine_alone(tmp_path: Path) -> None:
    assert read_url("--url-file", private_file(tmp_path, b"http://localhost:8080/x"))[1] == "localhost"


def test_a_file_that_is_not_there_or_is_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="it cannot be read"):
            read_secret("--url-file", str(path), "the URL")


def test_a_pipe_can_hand_over_a_secret(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a pass phrase\n")
    os.close(writing)
    assert read_secret("--password-file", f"/dev/fd/{reading}", "the password") == "a pass phrase"
    os.close(reading)


def test_settings_and_secrets_are_files_of_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put_channel(tmp_path, SLACK, URL)
        put_channel(tmp_path, Channel(name="mail", kind="email", shown="a@example.org"), "")
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.suffix != ".lock"
    }
    assert modes == {"channels.json": 0o600, "secrets": 0o700, "secrets/slack": 0o600}
    assert "hidden-part" not in (tmp_path / "channels.json").read_text()
    assert secret_file(tmp_path, SLACK).read_text() == URL


def test_a_channel_is_replaced_by_one_of_its_name_and_removed_with_its_secret(tmp_path: Path) -> None:
    put_channel(tmp_path, SLACK, URL)
    put_channel(tmp_path, SLACK.model_copy(update={"room": "#on-call"}), "https://other")
    assert [(channel.name, channel.room) for channel in read_channels(tmp_path)] == [("slack", "#on-call")]
    assert secret_file(tmp_path, SLACK).read_text() == "https://other"
    assert remove_channel(tmp_path, "slack").room == "#on-call"
    assert read_channels(tmp_path) == ()
    assert not secret_file(tmp_path, SLACK).exists()
    with pytest.raises(InputError, match="there are: none"):
        remove_channel(tmp_path, "slack")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "Slack", "x" * 32, "-a", 'a"b', "a b"])
def test_a_name_that_could_leave_its_folder_or_its_matcher_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="small letters"):
        put_channel(tmp_path, SLACK.model_copy(update={"name": name}), URL)
    assert read_channels(tmp_path) == ()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "channels.json").write_text('{"channels": [{"name": 5}]}')
    with pytest.raises(InputError, match=r"channels\.json"):
        read_channels(tmp_path)


@pytest.mark.parametrize("address", ["", "ana", "a@b, ", "a@b\r\nBcc: c@d", '{{ "a@b" }}', "<a@b>"])
def test_what_is_no_mail_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="no mail address"):
        checked_addresses("--to", address)


@pytest.mark.parametrize("server", ["smtp.example.org", "smtp.example.org:0", "smtp.example.org:99999", "a b:25", ":25"])
def test_a_mail_server_needs_its_port(server: str) -> None:
    with pytest.raises(InputError, match="no host:port"):
        checked_server("--server", server)


def test_addresses_and_servers_pass() -> None:
    assert checked_addresses("--to", "a@example.org,b@example.org") == "a@example.org, b@example.org"
    assert checked_server("--server", "[::1]:25") == "[::1]:25"
