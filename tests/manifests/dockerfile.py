"""The Dockerfile, read: stages, instructions, the names of packages; and the lock beside it."""

import re
from functools import cache
from typing import NamedTuple

from tests.conftest import ROOT

ENTRIES = {
    "gateway": ("serving.gateway.app", "serving.release.fetch_repository"),
    "monitor": ("monitoring.monitor.service",),
    "triton": ("pipeline.runtime.classifier",),
}


class Stage(NamedTuple):
    """One FROM and what follows: instructions with their continuation lines joined."""

    name: str
    base: str
    lines: list[str]

    def all(self, instruction: str) -> list[str]:
        return [line.partition(" ")[2].strip() for line in self.lines if line.startswith(f"{instruction} ")]

    @property
    def packages(self) -> list[str]:
        (value,) = [line for line in self.all("ARG") if line.startswith("PACKAGES=")]
        return value.removeprefix("PACKAGES=").strip('"').split()


@cache
def stages() -> dict[str, Stage]:
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[match.group(2)] = Stage(match.group(2), match.group(1), [])
        elif found and line.strip():
            list(found.values())[-1].lines.append(line)
    return found


@cache
def lock() -> dict[str, str]:
    """Version by name."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(image: str) -> set[str]:
    """What the image holds: its own packages and those of the image it is built on."""
    own = {plain(name) for name in stages()[f"{image}-packages"].packages}
    return own | installed(stages()[image].base) if stages()[image].base in ENTRIES else own


def argument(name: str) -> str:
    found = re.search(rf"^ARG {name}=(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert found, name
    return found.group(1)
