"""Stop and kill the monitoring's programs, before drift and during drift.

An alert on drift must neither be resolved while drift lasts nor fire without drift. The dead man's switch has to report silence.
No window may be lost or judged twice: the windows are compared with those of a monitor that reads the same log in one pass.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from monitoring.monitor.service import MonitorService
from serving.processes import Announce
from state.database import open_state
from state.tables import signals, windows
from tests.faults.running_stack import DrillSettings
from tests.faults.scorecard import Outcome, Promise, shown
from tests.faults.stack import wait_until
from tests.faults.timeline import Mark
from tests.faults.watching.watch_environment import FOREIGN, REFERENCE_ROWS, Environment, running_watch
from tests.faults.watching.watch_faults import FAULTS, LOOK_S, SWITCH
from tests.faults.watching.watch_timeline import DRIFT_ALERTS, SIGNAL, Sample, WatchTimeline, alerting_sampled
from tests.monitoring.homes import publish
from tests.monitoring.worlds import World

TIMEOUT_S = 90.0  # what takes longer counts as never
PACE = {  # minutes become seconds, so that ten faults take a quarter of an hour
    "scrape_s": 2,
    "evaluate_s": 2,
    "resend_s": 6,
    "for_s": 8,
    "group_wait_s": 1,
    "group_interval_s": 5,
    "repeat_s": 600,
    "switch_every_s": 6,
    "switch_overdue_s": 40,
    "monitor_stale_s": 40,
}


class Amount(NamedTuple):
    """Say how much is done."""

    in_peace: Sequence[str]  # names of `FAULTS`, before drift begins
    in_drift: Sequence[str]
    pace: Mapping[str, int]  # values for params' section alerts
    rows_per_s: float
    quiet_s: float  # between faults
    is_ended: bool  # drift ends before the drill does, and the alerts have to end too


class FaultResult(NamedTuple):
    """Record the effect of a fault."""

    name: str
    in_drift: bool
    since_s: float  # of the monotonic clock
    until_s: float  # end of the fault
    back_s: float  # from then until everything works; infinite: never
    told_s: float | None  # from the start until its alert; infinite: never


class Figures(NamedTuple):
    """Hold the figures that decide the verdict."""

    fired_in_peace: int  # samples with an alert on drift before drift began
    onset_to_firing_s: float
    called_over: int  # samples
    silent_while_well: int  # samples in which the inbox reports silence without a fault
    faults: Sequence[FaultResult]
    unlike: int  # rows of windows and signals that differ from those of one pass
    missing: int  # windows that the written rows fill but the monitor lacks
    quiet_windows: int  # windows without an alarm after the first alarm: drift did not last
    onset_to_over_s: float | None  # None: drift did not end


def judge(figures: Figures, overdue_s: float) -> list[Promise]:
    """Return the drill's promises: silence is reported, and no alert is false."""
    back_s = max((result.back_s for result in figures.faults), default=0.0)
    promises = [
        Promise("alerts on drift before it began", figures.fired_in_peace, "looks", at_most=0),
        Promise("from the first drifted answer to the message", figures.onset_to_firing_s, "s", at_most=TIMEOUT_S),
        Promise("a standing alert on drift called over", figures.called_over, "looks", at_most=0),
        Promise("windows without an alarm since the first: drift stood", figures.quiet_windows, "windows", at_most=0),
        Promise("the alerting called silent though it was not", figures.silent_while_well, "looks", at_most=0),
        Promise("longest until all was as it should be again", back_s, "s", at_most=TIMEOUT_S),
        Promise("windows not judged, or twice", figures.missing, "windows", at_most=0),
        Promise("rows unlike those judged in one go", figures.unlike, "rows", at_most=0),
    ]
    for name in dict.fromkeys(result.name for result in figures.faults if result.told_s is not None):
        told_s = max(result.told_s for result in figures.faults if result.name == name and result.told_s is not None)
        tells = FAULTS[name].tells
        at_most = overdue_s + 2 * LOOK_S if tells == SWITCH else TIMEOUT_S
        promises.append(Promise(f"{name}: {tells} tells after", told_s, "s", at_most=at_most))
    if figures.onset_to_over_s is not None:
        promises.append(
            Promise("from the last drifted answer until it is over", figures.onset_to_over_s, "s", at_most=2 * TIMEOUT_S)
        )
    return promises


def run(setting: DrillSettings, amount: Amount) -> tuple[Outcome, WatchTimeline]:
    """Run the drill in a scratch home."""
    folder = setting.scratch / "watch"
    folder.mkdir(parents=True)
    announce = setting.meter.report
    announce("watch: real monitor, Prometheus, Alertmanager and inbox; simulated answers instead of Triton's")
    with (
        running_watch(setting.params, folder, amount.pace, amount.rows_per_s) as environment,
        alerting_sampled(environment) as samples,
    ):
        wait_until(lambda: _is_healthy(samples, in_drift=False), TIMEOUT_S, environment.log)
        healthy_since_s = time.monotonic()
        faults = [_inject(environment, samples, name, amount, in_drift=False, announce=announce) for name in amount.in_peace]
        onset_s, environment.stream.foreign = time.monotonic(), FOREIGN
        announce("drift begins")
        firing_s = _seconds_until(lambda: _is_healthy(samples, in_drift=True))
        announce(f"{' and '.join(DRIFT_ALERTS)} fire after {shown(firing_s)} s")
        faults += [_inject(environment, samples, name, amount, in_drift=True, announce=announce) for name in amount.in_drift]
        drift_until_s = time.monotonic()
        over_s = _end_drift(environment, samples, announce) if amount.is_ended else None
        environment.stream.end()
        wait_until(lambda: _has_read_all(environment), TIMEOUT_S, environment.log)
    rows = _read_rows(environment.home)
    unlike, quiet_windows, first_alarm = compare_with_one_pass(
        environment, folder / "one-pass", rows, drift_rows=_rows_at(samples, drift_until_s)
    )
    before = [sample for sample in samples if sample.at_s < onset_s]
    standing = [sample for sample in samples if onset_s + firing_s <= sample.at_s < drift_until_s]
    undisturbed = [sample for sample in samples if sample.at_s > healthy_since_s and not _is_during_fault(faults, sample.at_s)]
    figures = Figures(
        fired_in_peace=sum(sample.drifting > 0 for sample in before),
        onset_to_firing_s=firing_s,
        called_over=sum("over" in (sample.standings or {}).values() for sample in standing),
        silent_while_well=sum(bool(sample.silent_s) for sample in undisturbed),
        faults=faults,
        unlike=unlike,
        missing=abs(environment.stream.rows // environment.params.monitor.window_rows - len(rows[0])),
        quiet_windows=quiet_windows,
        onset_to_over_s=over_s,
    )
    overdue_s = environment.params.alerts.switch_overdue_s
    marks = [Mark(result.name, result.since_s, result.until_s + min(result.back_s, TIMEOUT_S)) for result in faults]
    marks.append(Mark("drift begins", onset_s, onset_s + LOOK_S))
    return _outcome(figures, environment, first_alarm), WatchTimeline(f"watch: {len(faults)} faults", samples, marks, overdue_s)


def _inject(
    environment: Environment,
    samples: Sequence[Sample],
    name: str,
    amount: Amount,
    *,
    in_drift: bool,
    announce: Announce,
) -> FaultResult:
    """Inject a fault, and wait until everything works again."""
    time.sleep(amount.quiet_s)
    fault, since_s = FAULTS[name], time.monotonic()
    announce(f"{name}{' during drift' if in_drift else ''}")
    old_pid = environment.pid(name.removesuffix(" killed")) if name.endswith(" killed") else None
    fault.begin(environment)
    told_s = None
    if fault.tells:
        told_s = _seconds_until(lambda: _is_reported(samples[-1], fault.tells), fault.lasts_s(environment))
        while time.monotonic() - since_s < fault.lasts_s(environment):
            time.sleep(0.05)
    fault.end(environment)
    until_s = time.monotonic()

    def is_back() -> bool:
        replaced = old_pid is None or environment.pid(name.removesuffix(" killed")) not in (None, old_pid)
        is_sampled = samples[-1].at_s > until_s + 2 * LOOK_S
        return replaced and is_sampled and _is_healthy(samples, in_drift=in_drift) and fault.tells not in samples[-1].others

    back_s = _seconds_until(is_back)
    alert_text = "" if told_s is None else f"{fault.tells} tells after {shown(told_s)} s; "
    announce(f"{alert_text}everything works {shown(back_s)} s after its end")
    return FaultResult(name, in_drift, since_s, until_s, back_s, told_s)


def _end_drift(environment: Environment, samples: Sequence[Sample], announce: Announce) -> float:
    """End the drift; return the seconds until both alerts are over."""
    environment.stream.foreign = 0.0
    announce("drift ends")
    over_s = _seconds_until(lambda: set((samples[-1].standings or {"": ""}).values()) == {"over"}, 2 * TIMEOUT_S)
    announce(f"both alerts are over after {shown(over_s)} s")
    return over_s


def _is_healthy(samples: Sequence[Sample], *, in_drift: bool) -> bool:
    """Return whether the newest sample has fresh news and the alerts that drift requires."""
    if not samples or samples[-1].standings is None or samples[-1].silent_s or samples[-1].news_s is None:
        return False
    standings = set(samples[-1].standings.values())
    return samples[-1].judged is not None and (standings == {"firing"} or not in_drift)


def _is_reported(sample: Sample, alert: str) -> bool:
    return bool(sample.silent_s) if alert == SWITCH else alert in sample.others


def _is_during_fault(faults: Sequence[FaultResult], at_s: float) -> bool:
    return any(result.since_s <= at_s <= result.until_s + result.back_s for result in faults)


def _seconds_until(holds: Callable[[], bool], within_s: float = TIMEOUT_S) -> float:
    """Return the seconds until it holds; infinite when it does not."""
    try:
        return wait_until(holds, within_s)
    except TimeoutError:
        return inf


def _has_read_all(environment: Environment) -> bool:
    return environment.judged_windows() == environment.stream.rows // environment.params.monitor.window_rows


def _rows_at(samples: Sequence[Sample], at_s: float) -> int:
    return max((sample.rows for sample in samples if sample.at_s <= at_s), default=0)


Rows = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]


def _read_rows(home: Path) -> Rows:
    """Return all stored windows and signals."""
    with open_state(home) as engine, engine.connect().execution_options(reads_only=True) as connection:
        windows_, signals_ = (
            [_rounded(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))]
            for table in (windows, signals)
        )
    return windows_, signals_


def _rounded(row: Sequence[Any]) -> tuple[Any, ...]:
    """Round a row's floats: the last digits of a sum depend on how threads share its terms."""
    return tuple(round(cell, 12) if isinstance(cell, float) else cell for cell in row)


def compare_with_one_pass(environment: Environment, home: Path, rows: Rows, *, drift_rows: int) -> tuple[int, int, int]:
    """Return how many rows differ from one pass over the log, the windows of drift without an alarm, and the first alarm."""
    publish(home, 1, World(1).reference(REFERENCE_ROWS))
    shutil.copytree(environment.home / "predictions", home / "predictions")
    monitor = MonitorService(environment.params, home, time.time)
    while monitor.cycle():
        pass
    monitor.close()
    one_pass = _read_rows(home)
    unlike = sum(len(set(live) ^ set(again)) for live, again in zip(rows, one_pass, strict=True))
    alarms = {number: alarm for _version, number, signal, *_numbers, alarm in one_pass[1] if signal == SIGNAL}
    last = drift_rows // environment.params.monitor.window_rows
    first = min((number for number, alarm in alarms.items() if alarm != "none"), default=0)
    return unlike, sum(alarm == "none" for number, alarm in alarms.items() if first < number < last), first


def _outcome(figures: Figures, environment: Environment, first_alarm: int) -> Outcome:
    alerts = environment.params.alerts
    notes = [
        "simulated answers were written to the prediction log in place of Triton's; the monitoring was real",
        f"{environment.stream.rows} answers, windows of {environment.params.monitor.window_rows}; "
        f"the first alarm: number {first_alarm}",
        f"scrapes each {alerts.scrape_s} s; Alertmanager forgets after {4 * alerts.resend_s} s, the switch is overdue after "
        f"{alerts.switch_overdue_s} s",
        *(
            f"{result.name}{' during drift' if result.in_drift else ''}: for {shown(result.until_s - result.since_s)} s; "
            f"{'' if result.told_s is None else f'{FAULTS[result.name].tells} after {shown(result.told_s)} s; '}"
            f"everything works {shown(result.back_s)} s later"
            for result in figures.faults
        ),
    ]
    title = f"{len(figures.faults)} faults of the watching"
    figures_json = figures._asdict() | {"faults": [result._asdict() for result in figures.faults]}
    return Outcome("watch", title, judge(figures, alerts.switch_overdue_s), notes, figures_json)
