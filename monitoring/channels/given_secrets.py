"""Secrets that a person hands over: a file, or `-` for the standard input. No message quotes what is in them."""

import os
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import InputError

MAX_BYTES = 4096
LOOPBACK = ("localhost", "127.0.0.1", "::1")
STANDARD_INPUT = "-"
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secret(option: str, path: str, what: str) -> str:
    """Return the one line of a file; raises `InputError` when it cannot be read, is open to others, or is no single line."""
    where = f"{option} {path}"
    try:
        text = (_standard_input() if path == STANDARD_INPUT else _private_file(where, path)).decode()
    except OSError as error:
        raise InputError(
            where, f"it cannot be read: {error.strerror}", f"name a file that holds {what} and nothing else"
        ) from None
    except UnicodeDecodeError:
        raise InputError(where, "it is no text in UTF-8", f"write {what} into it, and nothing else") from None
    secret = text.strip()
    if not secret:
        raise InputError(where, "it is empty", f"write {what} into it")
    if len(text.encode()) > MAX_BYTES or not secret.isprintable():
        raise InputError(where, "it holds several lines, or control characters", f"write {what} into it, and nothing else")
    return secret


def read_url(option: str, path: str) -> tuple[str, str]:
    """Return the URL in a file, and its host; raises `InputError` unless it is `https://`, or `http://` on this machine."""
    url, where = read_secret(option, path, "the URL of the webhook"), f"{option} {path}"
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https") or not url.isascii() or " " in url:
        raise InputError(where, "it is not one URL", "copy the whole URL of the webhook: it begins with https://, without blanks")
    if parts.scheme == "http" and host not in LOOPBACK:
        what = "the URL begins with http://, so everybody on the way could read it and post in your name"
        raise InputError(where, what, "use the https:// address of the webhook")
    if parts.username is not None or parts.fragment:
        what = "the URL has a user name or a fragment (#), which no webhook gets"
        raise InputError(where, what, "copy the URL of the webhook again")
    return url, host


def _standard_input() -> bytes:
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _private_file(where: str, path: str) -> bytes:
    """Return the beginning of a file or pipe; a file that other users may read is no secret any more."""
    with Path(path).open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & OTHERS:
            what = f"other users of this machine may read it (mode {stat.S_IMODE(mode):04o})"
            raise InputError(where, what, f"chmod 600 {path}, and make a new secret if somebody may have read this one")
        return file.read(MAX_BYTES + 1)
