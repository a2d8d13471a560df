"""Finds the caller of a request by its token or address, and follows changes of the tokens file while the gateway runs."""

import hmac
from functools import lru_cache
from pathlib import Path

import structlog

from pipeline.errors import EvergreenError
from serving.access.tokens import ALL_SCOPES, ANONYMOUS, ID_DIGITS, LOCAL, Caller, StoredToken, hash_token, read_tokens
from serving.processes.addresses import is_loopback
from serving.processes.http_connections import peer_name

LOCAL_CALLER = Caller(LOCAL, ALL_SCOPES, LOCAL)

log = structlog.get_logger()


class Callers:
    """The callers of one gateway.

    While a tokens file exists, only its tokens are accepted. Without one, a gateway that listens on loopback serves its local
    user with all scopes, and any other gateway serves anonymous callers, who may only predict.
    """

    def __init__(self, path: Path, host: str) -> None:
        """Read the tokens; raise `InputError` when the file cannot be used."""
        self._path, self._is_local = path, is_loopback(host)
        self._state = _file_state(path)
        self._by_id = _index(read_tokens(path))  # None: no token is required
        if self._by_id is None and not self._is_local:
            log.warning("there are no tokens: everybody who reaches the gateway may predict", host=host, tokens=str(path))

    @property
    def has_tokens(self) -> bool:
        """Return whether a token is required."""
        return self._by_id is not None

    def find(self, authorization: bytes, address: str, is_forwarded: bool) -> Caller | None:
        """Return the caller, or None when a token is required and this is not a valid one.

        A request that came through a proxy is not the local user's, whatever the address of the proxy.
        """
        if self._by_id is not None:
            scheme, _, token = authorization.partition(b" ")
            return self._of_token(token.strip()) if scheme.lower() == b"bearer" else None
        if self._is_local and not is_forwarded:
            return LOCAL_CALLER
        return _anonymous(address)

    def refresh(self) -> bool:
        """Read the file again if it has changed; return False when that failed and the last tokens stay in force.

        A file that disappears opens nothing: the last tokens stay in force until the gateway is started again.
        """
        state = _file_state(self._path)
        if state == self._state:
            return True
        self._state = state
        try:
            tokens = read_tokens(self._path)
        except EvergreenError as error:
            log.error("the tokens cannot be used; the last ones stay in force", problem=str(error))
            return False
        if tokens is None:
            log.error("the tokens file has disappeared; the last ones stay in force", tokens=str(self._path))
            return False
        self._by_id = _index(tokens)
        log.info("tokens", names=sorted({token.name for token in tokens}))
        return True

    def _of_token(self, token: bytes) -> Caller | None:
        """Return the caller of a token: its id finds the candidates, and their whole hashes are compared in constant time."""
        digest = hash_token(token)
        found = None
        for sha256, caller in (self._by_id or {}).get(digest[:ID_DIGITS], ()):
            if hmac.compare_digest(sha256, digest):
                found = caller
        return found


@lru_cache(maxsize=4096)
def _anonymous(address: str) -> Caller:
    """Return the anonymous caller at an address; the addresses of an IPv6 customer are one caller."""
    return Caller(ANONYMOUS, frozenset({"predict"}), peer_name(address))


def _index(tokens: tuple[StoredToken, ...] | None) -> dict[str, list[tuple[str, Caller]]] | None:
    """Return hash and caller of the tokens by their id."""
    if tokens is None:
        return None
    by_id: dict[str, list[tuple[str, Caller]]] = {}
    for token in tokens:
        by_id.setdefault(token.id, []).append((token.sha256, token.caller))
    return by_id


def _file_state(path: Path) -> tuple[int, ...] | None:
    """Return numbers that change with the file's content, owner or mode; None when there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
