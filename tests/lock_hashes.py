"""Write the hashes of every package's files into the lock files: `python -m tests.lock_hashes`, after a version has changed.

A line keeps its name and version, and names the sha256 of each file that Python 3.11 or 3.12 on Linux can install. uv asks the
index for them. torch has none: its builds for CPUs and for CUDA share a version, and the machine decides which is installed.
"""

import re
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-peers.lock")
WITHOUT = "torch"
PYTHONS = re.compile(r"py3|py2\.py3|cp3(?:[2-9]|1[0-2])|py31[0-2]")
PLATFORMS = re.compile(r"any|manylinux.*_(?:x86_64|aarch64)|linux_(?:x86_64|aarch64)")


def main() -> None:
    for lock in LOCKS:
        path = ROOT / lock
        path.write_text(with_hashes(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_hashes(lock: str) -> str:
    """Return the lock with the hashes of now in each line; raises `CalledProcessError` when uv finds no such version."""
    pinned = {line: line.split()[0] for line in lock.splitlines() if re.match(r"[\w.-]+==", line)}
    wanted = [pin for pin in pinned.values() if not pin.startswith(f"{WITHOUT}==")]
    packages = {package["name"]: package for package in resolve(wanted)}
    lines = []
    for line in lock.splitlines():
        pin = pinned.get(line, line)
        if pin in wanted:
            name = re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()
            pin = " ".join([pin, *(f"--hash=sha256:{digest}" for digest in digests(packages[name]))])
        lines.append(pin)
    return "\n".join(lines) + "\n"


def resolve(pins: list[str]) -> list[dict[str, Any]]:
    """Return what the index says of these packages, as PEP 751 writes it down."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.txt").write_text("\n".join(pins), encoding="utf-8")
        options = (
            "--no-deps",
            "--generate-hashes",
            "--universal",
            "--python-version=3.11",
            "--format=pylock.toml",
            "--output-file=pylock.toml",
        )
        subprocess.run(["uv", "pip", "compile", "--quiet", *options, "in.txt"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        packages: list[dict[str, Any]] = tomllib.loads((Path(folder) / "pylock.toml").read_text(encoding="utf-8"))["packages"]
    return packages


def digests(package: dict[str, Any]) -> list[str]:
    """Return the sha256 of the wheels that fit; of the source where there are none."""
    wheels = [wheel for wheel in package.get("wheels", []) if fits(wheel["url"].rpartition("/")[2])]
    return sorted(file["hashes"]["sha256"] for file in wheels or [package["sdist"]])


def fits(filename: str) -> bool:
    """Return True for a wheel of Python 3.11 or 3.12 on Linux with glibc."""
    for tag in parse_wheel_filename(filename)[3]:
        is_stable = tag.abi in ("none", "abi3") and PYTHONS.fullmatch(tag.interpreter)
        if (is_stable or tag.abi in ("cp311", "cp312")) and PLATFORMS.fullmatch(tag.platform):
            return True
    return False


if __name__ == "__main__":
    main()
