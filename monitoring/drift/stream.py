"""The watched version's open window, evidence and what people are to see of it: pure, one step for each batch of answers.

Batches may be cut anywhere: the windows, their reports and the evidence are the same. What alarmed stays shown for `hold_s`, so
that a look every few seconds misses none of windows that are full in less.
"""

from typing import NamedTuple

import numpy as np

from monitoring.drift.accuracy import Estimate, Known, estimate
from monitoring.drift.answers import HASHED, Answers
from monitoring.drift.calibration import Calibrated
from monitoring.drift.features import SIGNALS
from monitoring.drift.signals import Evidence, Moved, Report, check, log_e, most_novel, start, update, words_that_moved
from monitoring.drift.window import Rows, Seen, admit, no_rows
from pipeline.params import Monitor

AT_LEAST = 100  # rows that are looked at in one go when a window is nearly full
Peaks = dict[str, float]


class Judged(NamedTuple):
    """One window that was full. Times are seconds of the epoch, of its first and last row."""

    number: int  # from 1
    began_at: float
    ended_at: float
    report: Report
    estimate: Estimate | None


class Shown(NamedTuple):
    """One signal as people see it; a statistic that alarmed, or a high log e-value, stays for `hold_s`."""

    value: float | None
    effect: float | None
    value_alarms: bool
    value_at: float
    log_e: float
    log_e_at: float
    words: tuple[Moved, ...]
    examples: tuple[str, ...]


class Watched(NamedTuple):
    """All that is known of the watched version; kept across restarts, together with how far the log was read."""

    version: int
    key: str  # of the reference and the settings that it is judged by
    number: int  # windows so far
    rows: Rows  # of the open window
    last: Rows  # of the window before
    seen: Seen
    peaks: Peaks  # the highest log e-values within the open window
    evidence: Evidence
    earlier: tuple[str, ...]  # texts of the first window
    shown: dict[str, Shown]
    estimate: Estimate | None  # of the last window


def begin(version: int, key: str, number: int, calibrated: Calibrated, *, sketch_size: int) -> Watched:
    """A version of which nothing was seen yet; `number` windows stand in the database from an earlier time."""
    nothing = no_rows(len(calibrated.labels), sketch_size)
    evidence = start(calibrated)
    unknown = {name: Shown(None, None, False, 0.0, own, 0.0, (), ()) for name, own in log_e(calibrated, evidence).items()}
    return Watched(version, key, number, nothing, nothing, {}, _no_peaks(), evidence, (), unknown, None)


def step(
    watched: Watched, new: Answers, calibrated: Calibrated, known: Known, settings: Monitor, *, now: float, hold_s: float
) -> tuple[Watched, list[Judged]]:
    """After these answers, and the windows that they filled."""
    judged: list[Judged] = []
    first, highest = 0, dict(log_e(calibrated, watched.evidence))
    while first < len(new.unit):
        watched, first, peaks = _fill(watched, new, first, calibrated, settings)
        highest = {name: max(own, peaks[name]) for name, own in highest.items()}
        if len(watched.rows.id) >= settings.window_rows:
            watched, one = _close(watched, calibrated, known, settings)
            judged.append(one)
            shown = {name: _with_window(watched.shown[name], one, name, now, hold_s) for name in SIGNALS}
            watched = watched._replace(shown=shown)
    return _told(watched, highest, calibrated, settings, now=now, hold_s=hold_s), judged


def _fill(watched: Watched, new: Answers, first: int, calibrated: Calibrated, settings: Monitor) -> tuple[Watched, int, Peaks]:
    """Admit answers from `first` on, until the window is full or some were looked at; the next one, and peaks among them."""
    need = settings.window_rows - len(watched.rows.id)
    stop = min(len(new.unit), first + max(need, AT_LEAST))
    admission = admit(new.unit[first:stop], new.text_hash[first:stop], watched.seen, settings.rows_per_unit)
    chosen = np.flatnonzero(admission.admitted)[:need] + first
    rows = new.rows.take(chosen)
    evidence, peaks = update(calibrated, watched.evidence, rows, settings)
    watched = watched._replace(
        rows=watched.rows.then(rows),
        seen=admission.seen,
        peaks={name: max(own, peaks[name]) for name, own in watched.peaks.items()},
        evidence=evidence,
    )
    return watched, int(chosen[-1]) + 1 if len(chosen) == need else stop, peaks


def _close(watched: Watched, calibrated: Calibrated, known: Known, settings: Monitor) -> tuple[Watched, Judged]:
    """Judge the full window and begin the next."""
    rows = watched.rows
    report = readable(check(calibrated, rows, watched.peaks, watched.earlier, settings), rows)
    found = estimate(known, rows, settings)
    one = Judged(watched.number + 1, float(rows.time.min()), float(rows.time.max()), report, found)
    watched = watched._replace(
        number=one.number,
        rows=rows.take(slice(0, 0)),
        last=rows,
        seen={},
        peaks=_no_peaks(),
        earlier=watched.earlier or tuple(rows.text.tolist()),
        estimate=found,
    )
    return watched, one


def readable(report: Report, rows: Rows) -> Report:
    """Without words and texts where the log keeps hashes alone."""
    if not np.char.startswith(rows.text, HASHED).any():
        return report
    return report._replace(words=(), examples=tuple(text for text in report.examples if not text.startswith(HASHED)))


def _with_window(shown: Shown, one: Judged, name: str, now: float, hold_s: float) -> Shown:
    """What a new window says of a signal, unless it says nothing and an alarm has to stand for a while yet."""
    signal = next(own for own in one.report.signals if own.name == name)
    alarms = signal.alarm in ("window", "both")
    if not alarms and shown.value_alarms and now - shown.value_at < hold_s:
        return shown
    return shown._replace(
        value=signal.value,
        effect=signal.effect,
        value_alarms=alarms,
        value_at=now,
        words=one.report.words if alarms else shown.words,
        examples=one.report.examples if alarms else shown.examples,
    )


def _told(watched: Watched, highest: Peaks, calibrated: Calibrated, settings: Monitor, *, now: float, hold_s: float) -> Watched:
    """The log e-values as they are shown, and words and texts for those over their thresholds."""
    shown = {}
    for name, own in watched.shown.items():
        if highest[name] > own.log_e or now - own.log_e_at >= hold_s:
            own = own._replace(log_e=highest[name], log_e_at=now)
        shown[name] = own
    over = {name for name, own in shown.items() if own.log_e >= calibrated.log_threshold[name]}
    rows = watched.last.then(watched.rows).take(slice(-settings.window_rows, None))
    texts = rows.text.tolist()
    if over and texts and not any(text.startswith(HASHED) for text in texts):
        words = words_that_moved(texts, watched.earlier, settings.words)
        examples = most_novel(texts, calibrated.features.novelty(rows.sketch, rows.probabilities), settings.examples)
        shown |= {name: shown[name]._replace(words=words, examples=examples) for name in over if not shown[name].value_alarms}
    quiet = {name for name, own in shown.items() if name not in over and not own.value_alarms}
    return watched._replace(shown=shown | {name: shown[name]._replace(words=(), examples=()) for name in quiet})


def _no_peaks() -> Peaks:
    return dict.fromkeys(SIGNALS, -np.inf)
