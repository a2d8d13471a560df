"""A real Prometheus that holds recorded samples, loaded by promtool."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from monitoring.local.tools import find_tool, working_directory
from serving.processes.ports import free_port
from serving.processes.supervisor import Program, supervised

Samples = Mapping[str, Sequence[tuple[float, float]]]  # by series, as the exposition format writes it


@contextmanager
def recorded_prometheus(tools: Path, folder: Path, samples: Samples) -> Iterator[int]:
    """Run Prometheus over these samples; yields its port."""
    folder.mkdir(parents=True)
    lines = [f"{series} {value} {at:.3f}\n" for series, points in samples.items() for at, value in points]
    (folder / "samples.txt").write_text("".join(lines) + "# EOF\n")
    tools = tools.absolute()
    load = [str(find_tool(tools, "promtool")), "tsdb", "create-blocks-from", "openmetrics", "samples.txt", "data"]
    subprocess.run(load, cwd=folder, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("{}\n")
    port = free_port()
    command = [
        str(find_tool(tools, "prometheus")),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    program = Program("prometheus", command, "127.0.0.1", port, "/-/ready", folder / "log", working_directory(tools))
    with supervised(program):
        yield port
