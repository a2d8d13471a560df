"""Brings `prometheus`, `promtool`, `alertmanager` and `amtool` into one folder: those on PATH when recent enough, else Debian's.

Debian's packages are only unpacked: no root, nothing is installed, no daemon starts. But Debian takes templates and pages, which
the makers compile into the programs, out of them and lays them under /usr/share/prometheus, a path that cannot be set: without
`alertmanager/default.tmpl` Alertmanager does not start. In our copies that path is replaced by one as long that leads to the
folder in which the program is started, and `start_in` says which that has to be.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import ToolError, run_stage
from serving.processes import Announce

READY = "ready"  # written last: the folder is whole
SHARE = b"/usr/share/prometheus"
HERE = b"/proc/self/cwd".ljust(len(SHARE), b"/")  # slashes more than one count as one


class Program(NamedTuple):
    """A program: the names it goes by on PATH, the oldest release that knows our files, Debian's package."""

    name: str
    names: tuple[str, ...]
    at_least: tuple[int, int]
    package: str


PROGRAMS = (
    Program("prometheus", ("prometheus",), (2, 42), "prometheus"),  # 2.42 brought keep_firing_for
    Program("promtool", ("promtool",), (2, 42), "prometheus"),
    Program("alertmanager", ("alertmanager", "prometheus-alertmanager"), (0, 25), "prometheus-alertmanager"),
    Program("amtool", ("amtool",), (0, 25), "prometheus-alertmanager"),
)


def bring(folder: Path, announce: Announce) -> None:
    """Lay all programs into `folder`/bin; raises `ToolError` that says what to install where Debian's packages are no help."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / READY).unlink(missing_ok=True)
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    found = {program: on_path(program) for program in PROGRAMS}
    for program, path in found.items():
        if path:
            announce(f"{program.name} {dotted(version_of(path))}: {path}")
            replace_link(binaries / program.name, path)
    missing = [program for program, path in found.items() if path is None]
    if missing:
        unpack(missing, folder, announce)
    (folder / READY).touch()


def find(folder: Path, name: str) -> Path:
    """One program of the folder; raises `ToolError` when it was not brought yet."""
    path = folder / "bin" / name
    if not path.exists():
        raise ToolError(str(path), "the program is not there", "make .tools/ready")
    return path


def start_in(folder: Path) -> Path:
    """Where the programs have to be started to find their templates and pages."""
    return folder / "share" if (folder / "share").is_dir() else folder


def on_path(program: Program) -> Path | None:
    """The first on PATH that is recent enough; None when there is none."""
    for name in program.names:
        path = shutil.which(name)
        if path and (version_of(Path(path)) or (0, 0)) >= program.at_least:
            return Path(path).resolve()
    return None


def version_of(program: Path) -> tuple[int, int] | None:
    """Major and minor release as the program tells them; None when it does not."""
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)  # old ones tell it on stderr
    return (int(told[1]), int(told[2])) if told else None


def dotted(version: tuple[int, int] | None) -> str:
    """`(2, 42)` as `2.42`."""
    return ".".join(map(str, version or ("?",)))


def replace_link(link: Path, target: Path) -> None:
    """Point `link` to `target`, whatever lay there before."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def unpack(programs: Iterable[Program], folder: Path, announce: Announce) -> None:
    """Fetch Debian's packages of these programs, check that they are recent enough, and lay their binaries into `folder`/bin."""
    programs = list(programs)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise not_debian(programs)
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    for inner in ("lists/partial", "cache/archives/partial"):
        (part / inner).mkdir(parents=True)
    try:
        for package in dict.fromkeys(program.package for program in programs):
            announce(f"unpacking Debian's package {package} into {folder} (10 to 20 MB, once)")
            archive = download(package, part, announce)
            run("dpkg-deb", "-x", str(archive), str(part / "root"), cwd=part)
        for program in programs:
            take(program, part / "root/usr/bin", folder / "bin")
        shutil.rmtree(folder / "share", ignore_errors=True)
        shutil.move(part / "root/usr/share/prometheus", folder / "share")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def download(package: str, part: Path, announce: Announce) -> Path:
    """The newest .deb that apt knows of; where it knows none, its lists are fetched into `part`, which needs no root either."""
    own = ("-o", f"Dir::State::Lists={part / 'lists'}", "-o", f"Dir::Cache={part / 'cache'}")
    fetch = ("apt-get", "-q", *as_ourselves(), "download", package)
    done = run(*fetch, cwd=part, may_fail=True)
    if done.returncode:
        announce("apt has no lists of packages yet; fetching them for ourselves (10 MB)")
        run("apt-get", "-q", *as_ourselves(), *own, "update", cwd=part)
        run(*fetch[:-2], *own, *fetch[-2:], cwd=part)
    (archive,) = part.glob(f"{package}_*.deb")
    return archive


def as_ourselves() -> tuple[str, ...]:
    """Root's apt would become a user who may not write into our folder."""
    return ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()


def take(program: Program, unpacked: Path, binaries: Path) -> None:
    """Lay one unpacked program in its place; raises `ToolError` when it is too old."""
    path = next((unpacked / name for name in reversed(program.names) if (unpacked / name).is_file()), None)
    version = version_of(path) if path else None
    if path is None or version is None or version < program.at_least:
        what = f"Debian's package {program.package} has {program.name} {dotted(version)}, older than {dotted(program.at_least)}"
        raise ToolError(program.name, what, advice(program.name))
    target = binaries / program.name
    target.unlink(missing_ok=True)
    target.write_bytes(path.read_bytes().replace(SHARE, HERE))
    target.chmod(0o755)


def run(*command: str, cwd: Path, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    """One command; raises `ToolError` with its own words."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode and not may_fail:
        what = f"`{' '.join(command)}` failed: {done.stderr.strip()}"
        raise ToolError(command[0], what, f"look at the network and apt's sources, or {advice('prometheus')}")
    return done


def not_debian(programs: list[Program]) -> ToolError:
    """What to tell where there is no apt."""
    wanted = ", ".join(f"{program.name} ≥ {dotted(program.at_least)}" for program in programs)
    return ToolError(
        "Prometheus", f"not on PATH, or too old: {wanted}; and Debian's apt-get is not here to fetch them", advice("them")
    )


def advice(what: str) -> str:
    """The way without Debian."""
    where = "your distribution, Homebrew (`brew install prometheus alertmanager`) or prometheus.io/download"
    return f"install {what} from {where}, so that they are on PATH"


def main() -> None:
    """`python -m monitoring.local.tools .tools`."""
    bring(Path(sys.argv[1]).absolute(), lambda line: print(f"· {line}"))


if __name__ == "__main__":
    run_stage(main)
