"""The watching itself under faults: its programs are stopped and killed, in peace and while drift stands.

A standing alert on drift must not be called over, none may fire that nothing stands behind, the dead man's switch has to tell,
and no window may be lost or judged twice: they are held against those of a monitor that reads the same log in one go.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from monitoring.monitor.service import MonitorService
from state.database import open_state
from state.tables import signals, windows
from tests.faults.running_stack import DrillSettings
from tests.faults.scorecard import Outcome, Promise, shown
from tests.faults.stack import wait_until
from tests.faults.timeline import Mark
from tests.faults.watch_environment import FOREIGN, REFERENCE_ROWS, Environment, watched
from tests.faults.watch_faults import FAULTS, LOOK_S, SWITCH
from tests.faults.watch_timeline import FOLLOWED, SIGNAL, Sample, WatchStory, looking
from tests.monitoring.homes import publish
from tests.monitoring.worlds import World

PATIENCE_S = 90.0  # for one that has to come; it counts as never come then
PACE = {  # minutes there are seconds here, so that ten faults take a quarter of an hour
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
    """How much is done."""

    in_peace: Sequence[str]  # of `FAULTS`, before drift begins
    in_drift: Sequence[str]
    pace: Mapping[str, int]  # of params' section alerts
    rows_per_s: float
    quiet_s: float  # between faults
    is_ended: bool  # drift ends at the end, and the alerts have to follow


class Done(NamedTuple):
    """A fault as it was seen."""

    name: str
    in_drift: bool
    since_s: float  # of the monotonic clock
    until_s: float  # it was taken back, or done at once
    back_s: float  # from then until all was as it should be; infinite: never
    told_s: float | None  # from the beginning until what it has to tell was told; infinite: never


class Figures(NamedTuple):
    """What the verdict depends on."""

    fired_in_peace: int  # looks at which an alert on drift was there before drift began
    onset_to_firing_s: float
    called_over: int  # looks
    silent_while_well: int  # looks at which the inbox called the alerting silent though nothing was done to it
    faults: Sequence[Done]
    unlike: int  # rows of windows and signals that differ from those judged in one go
    missing: int  # windows that the rows written should have filled
    quiet_windows: int  # since the first that alarmed, without an alarm: drift did not stand
    onset_to_over_s: float | None  # None: drift was not ended


def judge(figures: Figures, overdue_s: float) -> list[Promise]:
    """No news is never taken for good news, and nothing is made up."""
    back_s = max((done.back_s for done in figures.faults), default=0.0)
    made = [
        Promise("alerts on drift before it began", figures.fired_in_peace, "looks", at_most=0),
        Promise("from the first drifted answer to the message", figures.onset_to_firing_s, "s", at_most=PATIENCE_S),
        Promise("a standing alert on drift called over", figures.called_over, "looks", at_most=0),
        Promise("windows without an alarm since the first: drift stood", figures.quiet_windows, "windows", at_most=0),
        Promise("the alerting called silent though it was not", figures.silent_while_well, "looks", at_most=0),
        Promise("longest until all was as it should be again", back_s, "s", at_most=PATIENCE_S),
        Promise("windows not judged, or twice", figures.missing, "windows", at_most=0),
        Promise("rows unlike those judged in one go", figures.unlike, "rows", at_most=0),
    ]
    for name in dict.fromkeys(done.name for done in figures.faults if done.told_s is not None):
        told_s = max(done.told_s for done in figures.faults if done.name == name and done.told_s is not None)
        tells = FAULTS[name].tells
        at_most = overdue_s + 2 * LOOK_S if tells == SWITCH else PATIENCE_S
        made.append(Promise(f"{name}: {tells} tells after", told_s, "s", at_most=at_most))
    if figures.onset_to_over_s is not None:
        made.append(
            Promise("from the last drifted answer until it is over", figures.onset_to_over_s, "s", at_most=2 * PATIENCE_S)
        )
    return made


def run(setting: DrillSettings, amount: Amount) -> tuple[Outcome, WatchStory]:
    """The drill in a scratch home of its own."""
    folder = setting.scratch / "watch"
    folder.mkdir(parents=True)
    say = setting.meter.say
    say("watch: real monitor, Prometheus, Alertmanager and inbox; answers of an invented world instead of Triton's")
    with watched(setting.params, folder, amount.pace, amount.rows_per_s) as environment, looking(environment) as samples:
        wait_until(lambda: _is_well(samples, in_drift=False), PATIENCE_S, environment.said)
        well_since_s = time.monotonic()
        faults = [_play(environment, samples, name, amount, in_drift=False, say=say) for name in amount.in_peace]
        onset_s, environment.stream.foreign = time.monotonic(), FOREIGN
        say("drift begins")
        firing_s = _seconds_until(lambda: _is_well(samples, in_drift=True))
        say(f"{' and '.join(FOLLOWED)} fire after {shown(firing_s)} s")
        faults += [_play(environment, samples, name, amount, in_drift=True, say=say) for name in amount.in_drift]
        stands_until_s = time.monotonic()
        over_s = _end_drift(environment, samples, say) if amount.is_ended else None
        environment.stream.end()
        wait_until(lambda: _has_read_all(environment), PATIENCE_S, environment.said)
    found = _windows(environment.home)
    unlike, quiet, first = held_against_one_go(
        environment, folder / "one-go", found, stands_until_rows=_rows_at(samples, stands_until_s)
    )
    before = [one for one in samples if one.at_s < onset_s]
    standing = [one for one in samples if onset_s + firing_s <= one.at_s < stands_until_s]
    figures = Figures(
        fired_in_peace=sum(one.drifting > 0 for one in before),
        onset_to_firing_s=firing_s,
        called_over=sum("over" in (one.standings or {}).values() for one in standing),
        silent_while_well=sum(bool(one.silent_s) for one in samples if one.at_s > well_since_s and not _beside(faults, one.at_s)),
        faults=faults,
        unlike=unlike,
        missing=abs(environment.stream.rows // environment.params.monitor.window_rows - len(found[0])),
        quiet_windows=quiet,
        onset_to_over_s=over_s,
    )
    overdue_s = environment.params.alerts.switch_overdue_s
    marks = [Mark(done.name, done.since_s, done.until_s + min(done.back_s, PATIENCE_S)) for done in faults]
    marks.append(Mark("drift begins", onset_s, onset_s + LOOK_S))
    return _outcome(figures, environment, first), WatchStory(f"watch: {len(faults)} faults", samples, marks, overdue_s)


def _play(
    environment: Environment, samples: Sequence[Sample], name: str, amount: Amount, *, in_drift: bool, say: Callable[[str], None]
) -> Done:
    """One fault, until all is as it should be again."""
    time.sleep(amount.quiet_s)
    fault, since_s = FAULTS[name], time.monotonic()
    say(f"{name}{' while drift stands' if in_drift else ''}")
    before = environment.pid(name.removesuffix(" killed")) if name.endswith(" killed") else None
    fault.begin(environment)
    told_s = None
    if fault.tells:
        told_s = _seconds_until(lambda: _tells(samples[-1], fault.tells), fault.lasts_s(environment))
        while time.monotonic() - since_s < fault.lasts_s(environment):
            time.sleep(0.05)
    fault.end(environment)
    until_s = time.monotonic()

    def is_back() -> bool:
        replaced = before is None or environment.pid(name.removesuffix(" killed")) not in (None, before)
        looked = samples[-1].at_s > until_s + 2 * LOOK_S
        return replaced and looked and _is_well(samples, in_drift=in_drift) and fault.tells not in samples[-1].others

    back_s = _seconds_until(is_back)
    told = "" if told_s is None else f"{fault.tells} tells after {shown(told_s)} s; "
    say(f"{told}all as it should be {shown(back_s)} s after it was over")
    return Done(name, in_drift, since_s, until_s, back_s, told_s)


def _end_drift(environment: Environment, samples: Sequence[Sample], say: Callable[[str], None]) -> float:
    """Seconds until both alerts are over after the traffic is as before."""
    environment.stream.foreign = 0.0
    say("drift ends")
    over_s = _seconds_until(lambda: set((samples[-1].standings or {"": ""}).values()) == {"over"}, 2 * PATIENCE_S)
    say(f"both alerts are over after {shown(over_s)} s")
    return over_s


def _is_well(samples: Sequence[Sample], *, in_drift: bool) -> bool:
    """The newest look: the inbox has fresh news, and shows what there is to show."""
    if not samples or samples[-1].standings is None or samples[-1].silent_s or samples[-1].news_s is None:
        return False
    shows = set(samples[-1].standings.values())
    return samples[-1].judged is not None and (shows == {"firing"} or not in_drift)


def _tells(one: Sample, what: str) -> bool:
    return bool(one.silent_s) if what == SWITCH else what in one.others


def _beside(faults: Sequence[Done], at_s: float) -> bool:
    return any(done.since_s <= at_s <= done.until_s + done.back_s for done in faults)


def _seconds_until(holds: Callable[[], bool], within_s: float = PATIENCE_S) -> float:
    """Infinite where it does not come."""
    try:
        return wait_until(holds, within_s)
    except TimeoutError:
        return inf


def _has_read_all(environment: Environment) -> bool:
    return environment.judged() == environment.stream.rows // environment.params.monitor.window_rows


def _rows_at(samples: Sequence[Sample], at_s: float) -> int:
    return max((one.rows for one in samples if one.at_s <= at_s), default=0)


Found = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]


def _windows(home: Path) -> Found:
    """All windows and signals that were kept; the last digits of a sum depend on how its terms were shared among threads."""
    with open_state(home) as engine, engine.connect().execution_options(reads_only=True) as connection:
        windows_, signals_ = (
            [
                tuple(round(cell, 12) if isinstance(cell, float) else cell for cell in row)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            ]
            for table in (windows, signals)
        )
    return windows_, signals_


def _rounded(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(round(cell, 12) if isinstance(cell, float) else cell for cell in row)


def held_against_one_go(environment: Environment, home: Path, found: Found, *, stands_until_rows: int) -> tuple[int, int, int]:
    """Rows that differ from those of a monitor that reads the log in one go, windows of the drift without an alarm, its first."""
    publish(home, 1, World(1).reference(REFERENCE_ROWS))
    shutil.copytree(environment.home / "predictions", home / "predictions")
    monitor = MonitorService(environment.params, home, time.time)
    while monitor.cycle():
        pass
    monitor.close()
    again = _windows(home)
    unlike = sum(len(set(one) ^ set(other)) for one, other in zip(found, again, strict=True))
    alarms = {number: alarm for _version, number, signal, *_numbers, alarm in again[1] if signal == SIGNAL}
    last = stands_until_rows // environment.params.monitor.window_rows
    first = min((number for number, alarm in alarms.items() if alarm != "none"), default=0)
    return unlike, sum(alarm == "none" for number, alarm in alarms.items() if first < number < last), first


def _outcome(figures: Figures, environment: Environment, first: int) -> Outcome:
    alerts = environment.params.alerts
    notes = [
        "answers of an invented world were written to the prediction log in Triton's stead; all that watches was real",
        f"{environment.stream.rows} answers, windows of {environment.params.monitor.window_rows}; "
        f"the first that alarmed: number {first}",
        f"scrapes each {alerts.scrape_s} s; Alertmanager forgets after {4 * alerts.resend_s} s, the switch is overdue after "
        f"{alerts.switch_overdue_s} s",
        *(
            f"{done.name}{' while drift stood' if done.in_drift else ''}: for {shown(done.until_s - done.since_s)} s; "
            f"{'' if done.told_s is None else f'{FAULTS[done.name].tells} after {shown(done.told_s)} s; '}"
            f"as it should be {shown(done.back_s)} s later"
            for done in figures.faults
        ),
    ]
    title = f"{len(figures.faults)} faults of the watching"
    told = figures._asdict() | {"faults": [done._asdict() for done in figures.faults]}
    return Outcome("watch", title, judge(figures, alerts.switch_overdue_s), notes, told)
