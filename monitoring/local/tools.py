"""Provide `prometheus`, `promtool`, `alertmanager` and `amtool` in one folder: from PATH if recent enough, else from Debian.

Debian's packages are only unpacked: no root, no installation, no daemon. But Debian moves templates and pages, which upstream
compiles into the programs, to /usr/share/prometheus, a path that no option changes; without `alertmanager/default.tmpl`
Alertmanager does not start. Our copies replace that path by one of the same length that leads to the working directory, which
`working_directory` returns.
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
from pipeline.output.plain_text import print_line
from serving.processes import Announce

READY = "ready"  # written last: the folder is complete
SHARE = b"/usr/share/prometheus"
WORKING_DIRECTORY = b"/proc/self/cwd".ljust(len(SHARE), b"/")  # repeated slashes count as one


class Tool(NamedTuple):
    """A program: its names on PATH, the oldest release that reads our files, and Debian's package."""

    name: str
    names: tuple[str, ...]
    at_least: tuple[int, int]
    package: str


PROGRAMS = (
    Tool("prometheus", ("prometheus",), (2, 42), "prometheus"),  # 2.42 introduced keep_firing_for
    Tool("promtool", ("promtool",), (2, 42), "prometheus"),
    Tool("alertmanager", ("alertmanager", "prometheus-alertmanager"), (0, 25), "prometheus-alertmanager"),
    Tool("amtool", ("amtool",), (0, 25), "prometheus-alertmanager"),
)


def install_tools(folder: Path, announce: Announce) -> None:
    """Put all programs into `folder`/bin; raises `ToolError` that says what to install if Debian's packages do not help."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / READY).unlink(missing_ok=True)
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    paths = {program: find_on_path(program) for program in PROGRAMS}
    for program, path in paths.items():
        if path:
            announce(f"{program.name} {format_version(version_of(path))}: {path}")
            replace_link(binaries / program.name, path)
    missing = [program for program, path in paths.items() if path is None]
    if missing:
        unpack(missing, folder, announce)
    (folder / READY).touch()


def find_tool(folder: Path, name: str) -> Path:
    """Return the path of a program in the folder; raises `ToolError` when it is not there."""
    path = folder / "bin" / name
    if not path.exists():
        raise ToolError(str(path), "the program is missing", "make .tools/ready")
    return path


def working_directory(folder: Path) -> Path:
    """Return the directory to start the programs in, so that they find their templates and pages."""
    return folder / "share" if (folder / "share").is_dir() else folder


def find_on_path(program: Tool) -> Path | None:
    """Return the first program on PATH that is recent enough, or None."""
    for name in program.names:
        path = shutil.which(name)
        if path and (version_of(Path(path)) or (0, 0)) >= program.at_least:
            return Path(path).resolve()
    return None


def version_of(program: Path) -> tuple[int, int] | None:
    """Return the major and minor release that the program prints, or None."""
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)  # old releases print it to stderr
    return (int(match[1]), int(match[2])) if match else None


def format_version(version: tuple[int, int] | None) -> str:
    """Format `(2, 42)` as `2.42`."""
    return ".".join(map(str, version or ("?",)))


def replace_link(link: Path, target: Path) -> None:
    """Point `link` to `target`, replacing any file there."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def unpack(programs: Iterable[Tool], folder: Path, announce: Announce) -> None:
    """Download Debian's packages of these programs, check their releases, and put their binaries into `folder`/bin."""
    programs = list(programs)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise apt_missing_error(programs)
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
            install_binary(program, part / "root/usr/bin", folder / "bin")
        shutil.rmtree(folder / "share", ignore_errors=True)
        shutil.move(part / "root/usr/share/prometheus", folder / "share")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def download(package: str, part: Path, announce: Announce) -> Path:
    """Download the newest .deb that apt knows; without package lists, fetch them into `part`, which needs no root either."""
    private = ("-o", f"Dir::State::Lists={part / 'lists'}", "-o", f"Dir::Cache={part / 'cache'}")
    fetch = ("apt-get", "-q", *sandbox_options(), "download", package)
    done = run(*fetch, cwd=part, may_fail=True)
    if done.returncode:
        announce("apt has no package lists; fetching them into a temporary folder (10 MB)")
        run("apt-get", "-q", *sandbox_options(), *private, "update", cwd=part)
        run(*fetch[:-2], *private, *fetch[-2:], cwd=part)
    (archive,) = part.glob(f"{package}_*.deb")
    return archive


def sandbox_options() -> tuple[str, ...]:
    """Keep root's apt from switching to a user who may not write into our folder."""
    return ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()


def install_binary(program: Tool, unpacked: Path, binaries: Path) -> None:
    """Copy one unpacked program into `binaries`; raises `ToolError` when it is too old."""
    path = next((unpacked / name for name in reversed(program.names) if (unpacked / name).is_file()), None)
    version = version_of(path) if path else None
    if path is None or version is None or version < program.at_least:
        oldest = format_version(program.at_least)
        what = f"Debian's package {program.package} has {program.name} {format_version(version)}, older than {oldest}"
        raise ToolError(program.name, what, install_advice(program.name))
    target = binaries / program.name
    target.unlink(missing_ok=True)
    target.write_bytes(path.read_bytes().replace(SHARE, WORKING_DIRECTORY))
    target.chmod(0o755)


def run(*command: str, cwd: Path, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one command; raises `ToolError` with its error output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode and not may_fail:
        what = f"`{' '.join(command)}` failed: {done.stderr.strip()}"
        raise ToolError(command[0], what, f"check the network and apt's sources, or {install_advice('prometheus')}")
    return done


def apt_missing_error(programs: list[Tool]) -> ToolError:
    """Return the error for a machine without apt."""
    wanted = ", ".join(f"{program.name} ≥ {format_version(program.at_least)}" for program in programs)
    return ToolError(
        "Prometheus", f"not on PATH, or too old: {wanted}; and there is no apt-get to fetch them", install_advice("them")
    )


def install_advice(what: str) -> str:
    """Return how to install a program without Debian's packages."""
    source = "your distribution, Homebrew (`brew install prometheus alertmanager`) or prometheus.io/download"
    return f"install {what} from {source}, so that they are on PATH"


def main() -> None:
    """Run `python -m monitoring.local.tools .tools`."""
    install_tools(Path(sys.argv[1]).absolute(), lambda line: print_line(f"· {line}"))


if __name__ == "__main__":
    run_stage(main)
