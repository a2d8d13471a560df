"""Secret keys that the replicas of a gateway share: read from a file, made on first use."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pipeline.errors import InputError

MIN_KEY_BYTES = 16


def read_key(home: Path, purpose: Literal["callback", "console", "prediction"]) -> bytes:
    """Return the key in the file `EVERGREEN_<PURPOSE>_KEY_FILE`, by default `<purpose>.key` in the home, created when absent.

    Raises `InputError` when the file cannot be read or the key is too short.
    """
    chosen = os.environ.get(f"EVERGREEN_{purpose.upper()}_KEY_FILE")
    path = Path(chosen) if chosen else home / f"{purpose}.key"
    try:
        if not chosen:
            create_private(path, lambda: secrets.token_hex(32).encode())
        key = path.read_bytes().strip()
    except OSError as error:
        raise InputError(str(path), f"there is no {purpose} key: {error.strerror}", "name a file that can be read") from None
    if len(key) < MIN_KEY_BYTES:
        raise InputError(str(path), f"the {purpose} key is shorter than {MIN_KEY_BYTES} bytes", "openssl rand -hex 32")
    return key


def create_private(path: Path, make: Callable[[], bytes]) -> None:
    """Create a file that only this user can read, unless it exists.

    When two processes try at once, one of them writes, and both read the same whole key afterwards.
    """
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(make())
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
