"""The Dockerfile, parsed into stages, instructions and package names; and the versions in requirements.lock."""

import re
from functools import cache
from typing import NamedTuple

from tests.conftest import ROOT

ENTRIES = {
    "gateway": ("serving.gateway.app", "serving.release.fetch_repository"),
    "monitor": (
        "monitoring.monitor.app",
        "monitoring.inbox.app",
        "monitoring.console.app",
        "monitoring.retrain.receiver.app",
        "monitoring.local.configure",
    ),
    "triton": ("pipeline.runtime.classifier",),
}


class Stage(NamedTuple):
    """One FROM and its instructions, with continuation lines joined."""

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
def dockerfile_stages() -> dict[str, Stage]:
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            stages[match.group(2)] = Stage(match.group(2), match.group(1), [])
        elif stages and line.strip():
            list(stages.values())[-1].lines.append(line)
    return stages


@cache
def locked_versions() -> dict[str, str]:
    """Return the version of each package in requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return dict(line.split()[0].split("==") for line in lines if "==" in line and not line.startswith("#"))


def normalised_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def image_packages(image: str) -> set[str]:
    """Return the image's packages, with those of the image it is built on."""
    packages = {normalised_name(name) for name in dockerfile_stages()[f"{image}-packages"].packages}
    return packages | image_packages(dockerfile_stages()[image].base) if dockerfile_stages()[image].base in ENTRIES else packages


def build_argument(name: str) -> str:
    match = re.search(rf"^ARG {name}=(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert match, name
    return match.group(1)
