"""List the faults of the monitoring and their alerts: programs are paused or killed, the gateway goes away."""

import signal
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.watching.watch_environment import Environment

SWITCH = "the switch"  # the dead man's switch
LOOK_S = 1.0  # an event may be seen a sample or two later


class Fault(NamedTuple):
    """Describe a fault; `tells` is the alert that has to report it, or `SWITCH`, or empty."""

    name: str
    begin: Callable[[Environment], None]
    end: Callable[[Environment], None]
    lasts_s: Callable[[Environment], float]
    tells: str = ""


def _until_overdue(environment: Environment) -> float:
    """Return a time longer than Alertmanager remembers alerts and than the switch may be silent."""
    alerts = environment.params.alerts
    return max(4.0 * alerts.resend_s, alerts.switch_overdue_s) + 2.0 * alerts.evaluate_s + LOOK_S


def _until_stale(environment: Environment) -> float:
    alerts = environment.params.alerts
    alert_s = alerts.monitor_stale_s + alerts.for_s + 3 * alerts.evaluate_s + alerts.group_wait_s + alerts.group_interval_s
    return max(4.0 * alerts.resend_s, alert_s) + 2 * LOOK_S


def _until_alert(environment: Environment) -> float:
    alerts = environment.params.alerts
    return alerts.scrape_s + alerts.for_s + 3 * alerts.evaluate_s + alerts.group_wait_s + alerts.group_interval_s + 2 * LOOK_S


def _no_time(_: Environment) -> float:
    return 0.0


def _stopped(name: str, lasts_s: Callable[[Environment], float], tells: str) -> Fault:
    stop, resume = (
        lambda environment, number=number: environment.send(name, number) for number in (signal.SIGSTOP, signal.SIGCONT)
    )
    return Fault(f"{name} stopped", stop, resume, lasts_s, tells)


def _killed(name: str) -> Fault:
    return Fault(f"{name} killed", lambda environment: environment.send(name, signal.SIGKILL), lambda _: None, _no_time)


def _stop_gateway(environment: Environment) -> None:
    environment.stream.is_away = True
    environment.gateway.end()


def _start_gateway(environment: Environment) -> None:
    environment.gateway.begin()
    environment.stream.is_away = False


FAULTS = {
    fault.name: fault
    for fault in (
        _stopped("Prometheus", _until_overdue, SWITCH),
        _stopped("Alertmanager", _until_overdue, SWITCH),
        _stopped("monitor", _until_stale, "EvergreenMonitorStale"),  # its scrapes fail
        Fault("gateway away", _stop_gateway, _start_gateway, _until_alert, "EvergreenGatewayDown"),
        *map(_killed, ("monitor", "Alertmanager", "Prometheus", "inbox")),
    )
}
ALL = tuple(FAULTS)
