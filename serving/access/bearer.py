"""The token that our own clients of a gateway send."""

import os
import re

from pipeline.errors import InputError

TOKEN = re.compile(r"[!-~]+")


def bearer_header() -> dict[str, str]:
    """Return the header with the token of `EVERGREEN_TOKEN`; nothing without that variable."""
    token = os.environ.get("EVERGREEN_TOKEN", "").strip()
    if not token:
        return {}
    if not TOKEN.fullmatch(token):
        raise InputError("EVERGREEN_TOKEN", "this is not a token", "give what `evergreen token add` has printed")
    return {"authorization": f"Bearer {token}"}
