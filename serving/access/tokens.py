"""Named tokens with scopes in a file, hashed: read, added and revoked. Knows no HTTP.

A token has 256 random bits, so its plain SHA-256 cannot be reversed by guessing. Two tokens may have one name: a caller gets the
new one before the old one is revoked.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError, ToolError

Scope = Literal["predict", "label", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ALL_SCOPES: frozenset[Scope] = frozenset(SCOPES)
LOCAL, ANONYMOUS = "local", "anonymous"  # callers without a token
RESERVED = frozenset({LOCAL, ANONYMOUS})  # in upper case too: labels and logs show names to people
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
PREFIX = "evg_"  # lets scanners for leaked secrets recognise a token
ID_DIGITS = 8  # of the SHA-256: tells apart two tokens of one name
LOCK_S = 10.0
WRITABLE_BY_OTHERS = 0o022


class Caller(NamedTuple):
    """Who sent a request. `key` identifies the caller to the rate limit and as the owner of jobs."""

    name: str
    scopes: frozenset[Scope]
    key: str


class StoredToken(BaseModel):
    """A token as the file holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created_at: AwareDatetime

    @property
    def id(self) -> str:
        """Return the public id, the first digits of the hash."""
        return self.sha256[:ID_DIGITS]

    @property
    def caller(self) -> Caller:
        """Return the caller that the token stands for; `admin` includes all scopes."""
        return Caller(self.name, ALL_SCOPES if "admin" in self.scopes else frozenset(self.scopes), self.name)


class TokenFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[StoredToken, ...]


def tokens_path(home: Path) -> Path:
    """Return `EVERGREEN_TOKENS_FILE`, by default `tokens.json` in the home."""
    return Path(os.environ.get("EVERGREEN_TOKENS_FILE") or home / "tokens.json")


def hash_token(token: bytes) -> str:
    """Return the SHA-256 of a token in hex."""
    return hashlib.sha256(token).hexdigest()


def read_tokens(path: Path) -> tuple[StoredToken, ...] | None:
    """Return the tokens, or None when there is no file; raise `InputError` when it cannot be read or trusted."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            content = file.read()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise InputError(str(path), "there is no such folder", "correct EVERGREEN_TOKENS_FILE") from None
        return None
    except OSError as error:
        raise InputError(str(path), f"the tokens cannot be read: {error.strerror}", "let this user read the file") from None
    if mode & WRITABLE_BY_OTHERS:
        raise InputError(str(path), f"other users may write this file (mode {mode:o})", f"chmod 600 {path}")
    return _parse(path, content)


def add_token(path: Path, name: str, scopes: Sequence[str], now: datetime) -> str:
    """Store a new token and return it; raise `InputError` for a name, scope or file that cannot be used."""
    if not NAME.fullmatch(name):
        raise InputError(
            name, "this is not a name", "use a letter, then at most 63 letters, digits, dots, dashes and underscores"
        )
    if name.lower() in RESERVED:
        raise InputError(name, "this name stands for callers without a token", "name the person or the system")
    for scope in scopes:
        if scope not in SCOPES:
            raise InputError(f"--scope {scope}", "there is no such scope", f"give one of {', '.join(SCOPES)}; repeat for several")
    chosen = tuple(scope for scope in SCOPES if scope in scopes)
    token = PREFIX + secrets.token_urlsafe(32)
    stored = StoredToken(name=name, scopes=chosen, sha256=hash_token(token.encode()), created_at=now.replace(microsecond=0))
    _change(path, lambda tokens: (*tokens, stored))
    return token


def revoke_tokens(path: Path, name: str, id: str | None = None) -> int:
    """Remove the tokens with this name, or the one among them with this id, and return their number.

    Raise `InputError` when there is none. The file stays, so that no gateway takes calls without a token afterwards.
    """
    removed = 0

    def without(tokens: tuple[StoredToken, ...]) -> tuple[StoredToken, ...]:
        nonlocal removed
        left = tuple(token for token in tokens if token.name != name or id not in (None, token.id))
        removed = len(tokens) - len(left)
        if not removed:
            ids = ", ".join(token.id for token in tokens if token.name == name)
            what = f"{name} has no token with the id {id}; its ids: {ids}" if ids else f"no token has the name {name}"
            raise InputError(str(path), what, "see the names: .venv/bin/evergreen token list")
        return left

    _change(path, without)
    return removed


def _change(path: Path, change: Callable[[tuple[StoredToken, ...]], tuple[StoredToken, ...]]) -> None:
    """Replace the tokens under a file lock; readers see the old file or the new one, and only this user may read it."""
    try:
        with FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_S, mode=0o600):
            content = TokenFile(tokens=change(read_tokens(path) or ())).model_dump_json(indent=2)
            with atomic_write(path) as part:
                part.unlink(missing_ok=True)  # of a writer that was killed
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(content + "\n")
                    file.flush()
                    os.fsync(file.fileno())
    except Timeout:
        raise ToolError(str(path), f"another command has held the file for {LOCK_S:.0f} s", "wait for it, or end it") from None
    except OSError as error:
        raise InputError(str(path), f"the tokens cannot be written: {error.strerror}", "let this user write the folder") from None


def _parse(path: Path, content: bytes) -> tuple[StoredToken, ...]:
    """Return the tokens of the file's content. The message quotes no value, because a value may be a token."""
    try:
        tokens = TokenFile.model_validate_json(content).tokens
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = "this is not a file of `evergreen token add`" + (f": {where}: {first['msg']}" if where else "")
        if first["type"] == "json_invalid" and content.strip() and b"{" not in content:
            what = "this file has plain tokens, one a line, which are no longer accepted"
        do = "make new tokens: move the file away, then .venv/bin/evergreen token add NAME --scope predict"
        raise InputError(str(path), what, do) from None
    for number, token in enumerate(tokens):
        if token.name.lower() in RESERVED:
            what = f"tokens.{number}.name: {token.name} stands for callers without a token"
            raise InputError(str(path), what, "delete this entry, then .venv/bin/evergreen token add NAME --scope predict")
    return tokens
