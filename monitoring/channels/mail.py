"""Addresses and servers of mail, as a person types them."""

import re

from pipeline.errors import InputError

ADDRESS = re.compile(r"[^@\s,<>\"{}]+@[^@\s,<>\"{}]+")
SERVER = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def checked_addresses(option: str, text: str) -> str:
    """Return addresses separated by commas; raises `InputError` for what is none. A template of Alertmanager is none."""
    addresses = [part.strip() for part in text.split(",")]
    for address in addresses:
        if not ADDRESS.fullmatch(address) or not address.isprintable():
            raise InputError(option, f"{address!r} is no mail address", "write name@example.org, several with commas between")
    return ", ".join(addresses)


def checked_server(option: str, text: str) -> str:
    """Return host:port; raises `InputError` without a port."""
    match = SERVER.fullmatch(text)
    if not match or not 0 < int(match[2]) < 65536:
        raise InputError(option, f"{text!r} is no host:port", "for example smtp.example.org:587 (or 465, TLS from the start)")
    return text
