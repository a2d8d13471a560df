"""Keys are created once and for their owner only; a configured file is read and never created."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import InputError
from serving.key_file import read_key

KEY = b"k" * 32


def test_the_key_is_created_once_and_for_its_owner_only(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: read_key(tmp_path, "callback"), range(16)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["callback.key"]
    assert (tmp_path / "callback.key").stat().st_mode & 0o777 == 0o600


def test_a_configured_key_file_is_read_and_never_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tmp_path / "secret"
    monkeypatch.setenv("EVERGREEN_CALLBACK_KEY_FILE", str(chosen))
    with pytest.raises(InputError, match="secret"):
        read_key(tmp_path, "callback")
    chosen.write_bytes(b"too short\n")
    with pytest.raises(InputError, match="shorter"):
        read_key(tmp_path, "callback")
    chosen.write_bytes(KEY + b"\n")
    assert read_key(tmp_path, "callback") == KEY
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
