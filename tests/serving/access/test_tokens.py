"""The tokens file: what is added is read back, hashed and readable by its owner only; what cannot be trusted is refused."""

import hashlib
import json
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from serving.access.tokens import RESERVED, SCOPES, add_token, read_tokens, revoke_tokens, tokens_path

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
LETTERS, SIGNS = string.ascii_letters, "._-"
names = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + string.digits + SIGNS, max_size=63)).filter(
    lambda name: name.lower() not in RESERVED
)
scopes = st.lists(st.sampled_from(SCOPES), min_size=1, max_size=4)


@hypothesis_settings(max_examples=25, deadline=None)
@given(given_tokens=st.lists(st.tuples(names, scopes), min_size=1, max_size=4), data=st.data())
def test_tokens_that_are_added_are_read_back_and_those_of_a_name_are_revoked(
    given_tokens: list[tuple[str, list[str]]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.json"
        tokens = [add_token(path, name, scopes, NOW) for name, scopes in given_tokens]
        stored = read_tokens(path)
        assert stored is not None
        assert [(token.name, set(token.scopes), token.created_at) for token in stored] == [
            (name, set(scopes), NOW) for name, scopes in given_tokens
        ]
        assert [token.sha256 for token in stored] == [hashlib.sha256(token.encode()).hexdigest() for token in tokens]
        assert path.stat().st_mode & 0o777 == 0o600
        assert not any(token in path.read_text() for token in tokens)
        revoked = data.draw(st.sampled_from(given_tokens))[0]
        assert revoke_tokens(path, revoked) == [name for name, _ in given_tokens].count(revoked)
        assert [token.name for token in read_tokens(path) or ()] == [name for name, _ in given_tokens if name != revoked]


def test_admin_includes_every_scope_and_label_no_other(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    for scope in SCOPES:
        add_token(path, f"has-{scope}", [scope], NOW)
    callers = {token.caller.name: set(token.caller.scopes) for token in read_tokens(path) or ()}
    assert callers == {"has-predict": {"predict"}, "has-label": {"label"}, "has-admin": {"predict", "label", "admin"}}


def test_the_older_of_two_tokens_of_a_name_is_revoked_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    for _ in range(2):
        add_token(path, "shop", ["predict"], NOW)
    old, new = read_tokens(path) or ()
    assert revoke_tokens(path, "shop", old.id) == 1
    assert read_tokens(path) == (new,)


def test_the_file_of_the_last_revoked_token_stays_so_that_nobody_may_call(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    assert read_tokens(path) is None
    add_token(path, "shop", ["predict"], NOW)
    revoke_tokens(path, "shop")
    assert read_tokens(path) == ()


@pytest.mark.parametrize("name", ["", "two words", "a/b", "\x1b[2J", "ünal", "a" * 65, "9lives", "local", "anonymous", "Local"])
def test_a_name_that_could_be_mistaken_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        add_token(tmp_path / "tokens.json", name, ["predict"], NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["local", "anonymous", "LOCAL"])
def test_a_reserved_name_that_was_written_by_hand_is_refused_with_file_and_key(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tokens.json"
    for good in ("shop", "anna"):
        add_token(path, good, ["label"], NOW)
    path.write_text(path.read_text().replace('"anna"', f'"{name}"'))
    with pytest.raises(InputError, match=rf"(?s)tokens\.json.*tokens\.1\.name: {name} stands for callers without a token"):
        read_tokens(path)


def test_an_unknown_scope_name_or_id_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with pytest.raises(InputError, match=r"(?s)--scope root.*predict, label, admin"):
        add_token(path, "shop", ["root"], NOW)
    add_token(path, "shop", ["predict"], NOW)
    with pytest.raises(InputError, match=r"(?s)no token has the name ana.*token list"):
        revoke_tokens(path, "ana")
    (stored,) = read_tokens(path) or ()
    with pytest.raises(InputError, match=f"(?s)its ids: {stored.id}"):
        revoke_tokens(path, "shop", "0")


DAMAGED = {
    "plain tokens, as they were once stored": "first-secret\nsecond-secret\n",
    "half a file": '{"tokens": [{"name": "first-secret"',
    "another file": '["first-secret"]',
    "a misspelt key": '{"tokens": [], "more": "first-secret"}',
    "a token in place of its hash": json.dumps(
        {"tokens": [{"name": "shop", "scopes": ["predict"], "sha256": "first-secret", "created_at": "2026-11-29T12:00:00Z"}]}
    ),
    "an unknown scope": json.dumps(
        {"tokens": [{"name": "shop", "scopes": ["first-secret"], "sha256": "0" * 64, "created_at": "2026-11-29T12:00:00Z"}]}
    ),
    "nothing": "",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_without_showing_what_is_in_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match=r"(?s)tokens.json.*evergreen token add") as raised:
        read_tokens(path)
    assert "first-secret" not in str(raised.value)
    with pytest.raises(InputError):  # nor does a new token overwrite it
        add_token(path, "shop", ["predict"], NOW)
    assert path.read_text() == content


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    add_token(path, "shop", ["predict"], NOW)
    path.chmod(0o660)
    with pytest.raises(InputError, match="chmod 600"):
        read_tokens(path)


def test_a_path_in_no_folder_is_a_mistake_and_not_a_gateway_without_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tokens_path(tmp_path) == tmp_path / "tokens.json"
    monkeypatch.setenv("EVERGREEN_TOKENS_FILE", str(tmp_path / "mistyped/tokens.json"))
    with pytest.raises(InputError, match="EVERGREEN_TOKENS_FILE"):
        read_tokens(tokens_path(tmp_path))


def test_eight_writers_at_once_lose_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_token(path, f"user-{number}", ["predict"], NOW), range(8)))
    assert {token.name for token in read_tokens(path) or ()} == {f"user-{number}" for number in range(8)}


def test_what_a_killed_writer_has_left_does_not_disturb_the_next(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    (tmp_path / ".tokens.json.part").write_text("half a")
    add_token(path, "shop", ["predict"], NOW)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_tokens(path) or ()) == 1


def test_the_commands_print_a_token_once_and_list_it_never(tmp_path: Path) -> None:
    def evergreen(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evergreen.cli", "token", *arguments]
        return subprocess.run(command, env={"EVERGREEN_HOME": str(tmp_path)}, capture_output=True, text=True)

    added = evergreen("add", "shop", "--scope", "predict", "--scope", "label")
    token = added.stdout.strip()
    (stored,) = read_tokens(tmp_path / "tokens.json") or ()
    assert hashlib.sha256(token.encode()).hexdigest() == stored.sha256
    assert "every call to the gateway needs a token" in added.stderr
    listed = evergreen("list").stdout
    assert all(shown in listed for shown in ("shop", "predict, label", stored.id))
    assert token not in listed
    assert evergreen("revoke", "shop").returncode == 0
    refused = evergreen("revoke", "shop")
    assert (refused.returncode, "no token has the name shop" in refused.stderr) == (2, True)
