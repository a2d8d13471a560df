"""What is done to the watching: its programs are stopped and continued, or killed; the gateway goes away. And what tells."""

import signal
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.watch_environment import Environment

SWITCH = "the switch"
LOOK_S = 1.0  # a look or two may pass before something is seen


class Fault(NamedTuple):
    """Something that is done to the watching. `tells` is the alert that has to come of it, or `SWITCH`, or nothing."""

    name: str
    begin: Callable[[Environment], None]
    end: Callable[[Environment], None]
    lasts_s: Callable[[Environment], float]
    tells: str = ""


def _lasting(environment: Environment) -> float:
    """Longer than Alertmanager remembers without being told anew, and than the switch may be silent."""
    alerts = environment.params.alerts
    return max(4.0 * alerts.resend_s, alerts.switch_overdue_s) + 2.0 * alerts.evaluate_s + LOOK_S


def _until_stale(environment: Environment) -> float:
    alerts = environment.params.alerts
    told_s = alerts.monitor_stale_s + alerts.for_s + 3 * alerts.evaluate_s + alerts.group_wait_s + alerts.group_interval_s
    return max(4.0 * alerts.resend_s, told_s) + 2 * LOOK_S


def _until_told(environment: Environment) -> float:
    alerts = environment.params.alerts
    return alerts.scrape_s + alerts.for_s + 3 * alerts.evaluate_s + alerts.group_wait_s + alerts.group_interval_s + 2 * LOOK_S


def _at_once(_: Environment) -> float:
    return 0.0


def _stopped(name: str, lasts_s: Callable[[Environment], float], tells: str) -> Fault:
    stop, go_on = (
        lambda environment, number=number: environment.send(name, number) for number in (signal.SIGSTOP, signal.SIGCONT)
    )
    return Fault(f"{name} stopped", stop, go_on, lasts_s, tells)


def _killed(name: str) -> Fault:
    return Fault(f"{name} killed", lambda environment: environment.send(name, signal.SIGKILL), lambda _: None, _at_once)


def _take_gateway_away(environment: Environment) -> None:
    environment.stream.is_away = True
    environment.gateway.end()


def _bring_gateway_back(environment: Environment) -> None:
    environment.gateway.begin()
    environment.stream.is_away = False


FAULTS = {
    fault.name: fault
    for fault in (
        _stopped("Prometheus", _lasting, SWITCH),
        _stopped("Alertmanager", _lasting, SWITCH),
        _stopped("monitor", _until_stale, "EvergreenMonitorStale"),  # its scrapes fail
        Fault("gateway away", _take_gateway_away, _bring_gateway_back, _until_told, "EvergreenGatewayDown"),
        *map(_killed, ("monitor", "Alertmanager", "Prometheus", "inbox")),
    )
}
ALL = tuple(FAULTS)
