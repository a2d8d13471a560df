"""Run Prometheus, Alertmanager, the inbox, the monitor, the flywheel and the retrain controller on this machine."""

import argparse
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from monitoring.channels.settings import read_channels
from monitoring.console.process import SharedConsole
from monitoring.decisions import describe_retraining
from monitoring.local.configure import alertmanager_authority, retrain_ports, write_config
from monitoring.local.tools import find_tool, working_directory
from monitoring.retrain_activity import RETRAIN_NOW
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.output.plain_text import indented, print_line, print_lines
from pipeline.params import Alerts, Params, load_params
from serving.processes import Announce
from serving.processes.addresses import VARIABLES, authority, base_url, listen_host, reach_host
from serving.processes.supervisor import ENDS_WITHIN_S, Child, Program, supervised
from serving.release.release_table import find_release
from state.database import open_state

TOOLS = Path(".tools")
POLL_S = 0.5
PAGES = {
    "inbox": "/",
    "prometheus": "/",
    "alertmanager": "/",
    "monitor": "/report.json",
    "flywheel": "/metrics",
    "receiver": "/metrics",
    "controller": "/metrics",
}  # Debian's Prometheus has no /alerts


class MonitoringStack(NamedTuple):
    """The running processes; None for those that are not configured."""

    prometheus: Child
    alertmanager: Child
    inbox: Child | None
    monitor: Child | None
    flywheel: Child | None
    receiver: Child | None
    controller: Child | None

    def children(self) -> list[Child]:
        """Return the running processes."""
        return [child for child in self if child is not None]


def prometheus_command(tools: Path, folder: Path, alerts: Alerts) -> list[str]:
    """Return the command; Prometheus may pause for 4 × resend-delay before Alertmanager resolves its alerts."""
    return [
        str(find_tool(tools, "prometheus")),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={authority(listen_host('prometheus', alerts.host), alerts.prometheus_port)}",
        f"--rules.alert.resend-delay={alerts.resend_s}s",
        f"--rules.alert.for-grace-period={alerts.evaluate_s}s",  # pending alerts do not wait again after a restart
        "--log.level=warn",
    ]


def alertmanager_command(tools: Path, folder: Path, alerts: Alerts) -> list[str]:
    """Return the command of a single Alertmanager without a cluster port.

    Its notification log is written to disk at an interval (15 minutes by default) and at a clean exit. After a kill it reports
    the end of an alert only to receivers in that log.
    """
    return [
        str(find_tool(tools, "alertmanager")),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--data.maintenance-interval={alerts.remember_s}s",
        f"--web.listen-address={authority(listen_host('alertmanager', alerts.host), alerts.alertmanager_port)}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]


@contextmanager
def running_stack(
    params: Params,
    tools: Path,
    folder: Path,
    announce: Announce,
    *,
    inbox_command: list[str],
    monitor_command: list[str],
    flywheel_command: Sequence[str] = (),
    retrain_commands: Mapping[str, list[str]] = MappingProxyType({}),
) -> Iterator[MonitoringStack]:
    """Yield the processes, ready; stop them when the block ends in any way. A process without a command is not started."""
    alerts, folder, tools = params.alerts, folder.absolute(), tools.absolute()
    write_config(params, folder)
    hosts: dict[str, str] = {name: reach_host(name, alerts.host) for name in VARIABLES}
    with ExitStack() as stack:

        def start(name: str, command: Sequence[str], port: int, path: str) -> Child:
            cwd = working_directory(tools) if name in ("prometheus", "alertmanager") else None
            host = hosts[name]
            ends_within_s = ENDS_WITHIN_S + (params.retrain.stop_within_s if name == "controller" else 0)  # a run ends with it
            program = Program(name, command, host, port, path, folder / f"{name}.log", cwd, ends_within_s=ends_within_s)
            child = stack.enter_context(supervised(program))
            announce(f"{name:<14}{base_url(host, port)}{PAGES[name]}")
            return child

        inbox = start("inbox", inbox_command, alerts.inbox_port, "/healthz") if alerts.inbox == "here" else None
        retrain = {  # before Alertmanager, because the receiver creates the token
            name: start(name, retrain_commands[name], port, "/healthz")
            for name, port in retrain_ports(alerts).items()
            if name in retrain_commands
        }
        manager = start("alertmanager", alertmanager_command(tools, folder, alerts), alerts.alertmanager_port, "/-/ready")
        prometheus = start("prometheus", prometheus_command(tools, folder, alerts), alerts.prometheus_port, "/-/ready")
        monitor = start("monitor", monitor_command, alerts.monitor_port, "/metrics") if monitor_command else None
        flywheel = start("flywheel", flywheel_command, alerts.flywheel_port, "/healthz") if flywheel_command else None
        yield MonitoringStack(prometheus, manager, inbox, monitor, flywheel, retrain.get("receiver"), retrain.get("controller"))


def watch(params: Params, home: Path, announce: Announce, *, is_on_request: bool) -> None:
    """Run until Ctrl-C and restart every program that ends. With `is_on_request` no alert starts a retrain."""
    inbox, monitor, flywheel = ([sys.executable, "-m", f"monitoring.{name}"] for name in ("inbox", "monitor", "flywheel"))
    option = ["--on-request"] if is_on_request else []
    retrain = {
        "receiver": [sys.executable, "-m", "monitoring.retrain.receiver"],
        "controller": [sys.executable, "-m", "monitoring.retrain", *option],
    }
    with (
        running_stack(
            params,
            TOOLS,
            home / "alerts",
            announce,
            inbox_command=[*inbox, *option],
            monitor_command=monitor,
            flywheel_command=flywheel,
            retrain_commands=retrain if params.alerts.controller_url == "here" else {},
        ) as stack,
        closing_console(params, home) as consoles,
    ):
        for console in consoles:
            console.look(time.monotonic(), announce)
            announce(f"{'console':<14}{console.url}")
        announce(f"{describe_retraining(params.alerts, is_on_request=is_on_request)} Retrain now: {RETRAIN_NOW}")
        announce(f"firing alerts: {TOOLS}/bin/amtool --alertmanager.url=http://{alertmanager_authority(params.alerts)} alert")
        names = ", ".join(channel.name for channel in read_channels(home / "alerts"))
        others = names or "nobody; to add Slack, Teams or mail: evergreen alerts --help"
        announce(f"besides the inbox, alerts go to: {others}")
        announce(f"configuration and logs: {home / 'alerts'}; Ctrl-C stops everything")
        for line in missing_prerequisites(params, home):
            announce(line)
        while True:
            time.sleep(POLL_S)
            for child in stack.children():
                child.look(time.monotonic(), announce)
            for console in consoles:
                console.look(time.monotonic(), announce)


@contextmanager
def closing_console(params: Params, home: Path) -> Iterator[list[SharedConsole]]:
    """Yield the console if params want one, and end it after the block; `make serve` may run one, and then nothing starts."""
    consoles = [SharedConsole(params, home)] if params.alerts.console == "here" else []
    try:
        yield consoles
    finally:
        for console in consoles:
            console.end()


def missing_prerequisites(params: Params, home: Path) -> list[str]:
    """Return a line for each prerequisite of monitoring that is missing: a champion, a gateway."""
    with open_state(home) as engine, engine.begin() as connection:
        champion = find_release(connection, role="champion")
    lines = [] if champion else ["no version is published yet, so there is nothing to monitor: make repro"]
    host, port = reach_host("gateway", params.gateway.host), params.gateway.port
    try:
        with socket.create_connection((host, port), timeout=2):
            return lines
    except OSError:
        return [*lines, f"no gateway answers at {base_url(host, port)} yet: make serve"]


def main() -> None:
    """Run `python -m monitoring.local.watch`."""
    parser = argparse.ArgumentParser(prog="make watch", description=__doc__)
    parser.add_argument("--retrain", action="store_true", help="alerts may start retrains; otherwise only a person does")
    is_on_request = not parser.parse_args().retrain
    try:
        watch(load_params(), find_home(), lambda text: print_lines(f"· {indented(text)}"), is_on_request=is_on_request)
    except KeyboardInterrupt:
        print_line("stopped")


if __name__ == "__main__":
    run_stage(main)
