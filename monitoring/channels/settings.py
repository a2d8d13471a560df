"""The channels of a home: `alerts/channels.json`, and one secret file for each channel that has a secret.

Both can be read by their owner alone. The settings never hold a secret, so they can be shown.
"""

import os
import re
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.atomic_write import atomic_write
from pipeline.errors import InputError

Kind = Literal["slack", "teams", "webhook", "email"]
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
RELAYED = ("teams", "webhook")  # the inbox sends these, so that their URL is in no configuration and no log


class Channel(BaseModel):
    """A channel; the fields below `shown` belong to mail, except for `room`, which is Slack's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    shown: str  # where messages go, as people may see it: the host of a URL, the address of a mail
    room: str = ""
    sender: str = ""
    server: str = ""
    user: str = ""
    tls: bool = True


class Channels(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[Channel, ...] = ()


def read_channels(folder: Path) -> tuple[Channel, ...]:
    """Return the channels set up in `alerts/` of a home, in the order of their names; raises `InputError` for a damaged file."""
    path = _file(folder)
    try:
        channels = Channels.model_validate_json(path.read_bytes()).channels
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(str(path), problem, "delete the file, and set the channels up again: evergreen alerts --help") from None
    return tuple(sorted(channels, key=lambda channel: channel.name))


def find_channel(folder: Path, name: str) -> Channel:
    """Return a channel; raises `InputError` that lists the known names."""
    channels = read_channels(folder)
    for channel in channels:
        if channel.name == name:
            return channel
    known = ", ".join(channel.name for channel in channels) or "none"
    raise InputError(f"channel {name}", f"it is not set up; there are: {known}", "evergreen alerts list shows them")


def put_channel(folder: Path, channel: Channel, secret: str) -> None:
    """Store a channel and its secret; both replace those of the same name. Raises `InputError` for a name that cannot be used."""
    if not NAME.fullmatch(channel.name):
        what = f"a name has 1 to 31 small letters, digits and hyphens, not {channel.name!r}"
        raise InputError("--name", what, "for example --name on-call")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "channels.lock"):
        others = [other for other in read_channels(folder) if other.name != channel.name]
        path = secret_file(folder, channel)
        path.unlink(missing_ok=True)
        if secret:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _write(path, secret)
        _write(_file(folder), Channels(channels=(*others, channel)).model_dump_json(indent=1))


def remove_channel(folder: Path, name: str) -> Channel:
    """Delete a channel and its secret; raises `InputError` for an unknown name."""
    with FileLock(folder / "channels.lock"):
        removed = find_channel(folder, name)
        kept = tuple(channel for channel in read_channels(folder) if channel.name != name)
        _write(_file(folder), Channels(channels=kept).model_dump_json(indent=1))
        secret_file(folder, removed).unlink(missing_ok=True)
    return removed


def secret_file(folder: Path, channel: Channel) -> Path:
    """Return the path of a channel's URL or password."""
    return folder / "secrets" / channel.name


def _file(folder: Path) -> Path:
    return folder / "channels.json"


def _write(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, at any time."""
    with atomic_write(path) as part:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
