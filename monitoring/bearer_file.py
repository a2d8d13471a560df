"""A bearer token in a file: Alertmanager sends it, and one of our processes takes nothing without it."""

import hmac
import os
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from pipeline.errors import InputError


def ensure_token(path: Path) -> str:
    """Return the token, created readable by its owner alone if the file is missing; raises `InputError` for an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(24))
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise InputError(str(path), "there is no token in this file", "write one, or delete the file: a new token is created")
    return token


class BearerToken:
    """The token that callers have to send; only its hash stays in memory."""

    def __init__(self, token: str) -> None:
        self._digest = sha256(token.encode()).digest()

    def is_in(self, authorization: str) -> bool:
        """Return whether the header `Authorization` carries the token."""
        scheme, _, token = authorization.partition(" ")
        given = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(given, self._digest) and scheme.lower() == "bearer"
