"""The gate that a faster session has to pass: the same labels as fp32, no accuracy lost, and fast enough to be worth it."""

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.cores import available_cores
from pipeline.errors import RefusedError, ToolError
from pipeline.params import Session
from pipeline.runtime.sessions import SESSIONS
from pipeline.session.timing import BASELINE, Seconds, speedups_of

HELD_OUT_MARGIN = 0.75  # of what a probability may move, on held-out rows: the worst of all traffic was 1.34 times their worst
Check = Callable[[str, bool], "Fidelity"]  # name, with batch effect


class Fidelity(NamedTuple):
    """A candidate's predictions for the held-out rows, compared with those of fp32."""

    agreement: float  # share of equal labels
    accuracy: float  # on the test rows
    batch_effect: float | None  # largest change of a probability between a text alone and in a batch; None: not needed


class Measurement(NamedTuple):
    """A candidate's speed, and its fidelity where it is fast enough to be chosen."""

    texts_per_s: float
    speedup: float  # over fp32 in ONNX Runtime, median of rounds
    fidelity: Fidelity | None


class Candidate(NamedTuple):
    """A row of the table; `measured` is None if the candidate cannot run here."""

    name: str
    measured: Measurement | None
    verdict: str  # chosen | passed | refused | cannot run
    why: str


class HeldOut(NamedTuple):
    """Rows not used for training: validation, then test."""

    texts: list[str]
    labels: NDArray[np.str_]
    is_test: NDArray[np.bool_]


def measure_candidates(seconds: Seconds, texts: int, check: Check, settings: Session) -> dict[str, Measurement]:
    """Compare the answers of candidates with those of fp32, from the fastest down, until the rest are too slow to be chosen.

    `seconds` are those of the rounds that each was timed in, for `texts` texts. `check` classifies every held-out row. fp32
    itself is the yardstick: its batch effect is needed only when no other candidate passes.
    """
    speedups = speedups_of(seconds)
    baseline = check(BASELINE, False)
    fidelity: dict[str, Fidelity | None] = {BASELINE: baseline}
    best = 0.0  # speed-up of the fastest that passed
    for name in sorted(speedups.keys() - {BASELINE}, key=lambda name: -speedups[name]):
        contends = speedups[name] >= settings.min_speedup and speedups[name] * settings.min_speedup >= best
        fidelity[name] = check(name, True) if contends or name == settings.choice else None
        if contends and not _refusal(fidelity[name], baseline, settings):
            best = max(best, speedups[name])
    if not best and settings.choice in ("auto", BASELINE):
        fidelity[BASELINE] = check(BASELINE, True)
    spent = {name: float(np.median(rounds, axis=0).sum()) for name, rounds in seconds.items()}  # on all batches
    return {name: Measurement(texts / spent[name], speedup, fidelity[name]) for name, speedup in speedups.items()}


def decide_session(measured: dict[str, Measurement], absent: dict[str, str], settings: Session) -> tuple[str, list[Candidate]]:
    """Return the session to serve with, and every candidate with its verdict and the reason.

    Raise `RefusedError` when no session passes, or not the one that params name, and `ToolError` for one that cannot run here.
    """
    refused = refusals(measured, settings)
    if settings.choice in absent:
        raise ToolError(f"session.choice = {settings.choice}", absent[settings.choice], "set session.choice to auto")
    if refused.get(settings.choice):
        raise RefusedError(f"session.choice = {settings.choice}", refused[settings.choice], "set session.choice to auto")
    chosen = _fastest(measured, refused, settings) if settings.choice == "auto" else settings.choice
    candidates = [Candidate(name, None, "cannot run", why) for name, why in absent.items()]
    for name, measurement in measured.items():
        passed = "passed" if measurement.fidelity else "not checked"
        verdict = "chosen" if name == chosen else "refused" if refused[name] else passed
        why = refused[name] or ("" if name == chosen else _why_not_chosen(name, chosen, measured, settings))
        candidates.append(Candidate(name, measurement, verdict, why))
    return chosen, sorted(candidates, key=lambda candidate: list(SESSIONS).index(candidate.name))


def refusals(measured: dict[str, Measurement], settings: Session) -> dict[str, str]:
    """Return why each candidate is refused; "" for the others."""
    baseline = measured[BASELINE].fidelity
    return {name: _refusal(measurement.fidelity, baseline, settings) for name, measurement in measured.items()}


def _fastest(measured: dict[str, Measurement], refused: dict[str, str], settings: Session) -> str:
    """Return the fastest candidate that passed; of two that differ by less than `min_speedup`, the nearer to fp32."""
    passed = {name: measurement for name, measurement in measured.items() if measurement.fidelity and not refused[name]}
    if not passed:
        raise RefusedError(BASELINE, refused[BASELINE], "train again, or raise session.golden_atol")
    best = max(measurement.speedup for measurement in passed.values())
    near = [name for name, measurement in passed.items() if measurement.speedup * settings.min_speedup >= best]
    chosen = max(near, key=lambda name: (passed[name].fidelity.agreement, passed[name].speedup))  # type: ignore[union-attr]
    return chosen if passed[chosen].speedup >= settings.min_speedup else BASELINE


def _why_not_chosen(name: str, chosen: str, measured: dict[str, Measurement], settings: Session) -> str:
    speedup = measured[name].speedup
    if name != BASELINE and speedup < settings.min_speedup:
        return f"{speedup:.2f} times as fast as fp32, {settings.min_speedup} needed"
    return f"{chosen} is {'faster' if measured[chosen].speedup > speedup else 'closer to fp32, and hardly slower'}"


def _refusal(fidelity: Fidelity | None, baseline: Fidelity | None, settings: Session) -> str:
    """Return why these predictions differ too much from those of fp32; "" when they do not, or were not compared."""
    if fidelity is None or baseline is None:
        return ""
    why = []
    if not fidelity.agreement >= settings.min_agreement:  # NaN is not >= anything
        why.append(f"{fidelity.agreement:.2%} of labels agree with fp32, {settings.min_agreement:.2%} needed")
    lost = baseline.accuracy - fidelity.accuracy
    if not lost <= settings.max_accuracy_loss:
        why.append(
            f"accuracy {fidelity.accuracy:.2%}, fp32 {baseline.accuracy:.2%}: {100 * lost:.2f} points lost, "
            f"{100 * settings.max_accuracy_loss:.2f} allowed"
        )
    allowed = HELD_OUT_MARGIN * settings.golden_atol
    if fidelity.batch_effect is not None and not fidelity.batch_effect <= allowed:
        why.append(f"a probability moves by {fidelity.batch_effect:.4f} with the other texts in its batch, {allowed:g} allowed")
    return "; ".join(why)


def machine_details(settings: Session) -> dict[str, Any]:
    """Describe the machine that the speeds were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": available_cores(),
        "threads": settings.threads,
        **{package: _version(package) for package in ("onnxruntime", "openvino")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def as_row(candidate: Candidate) -> dict[str, Any]:
    """Return the candidate as one flat record; fields that were not measured are None."""
    measurement = candidate.measured
    fidelity = measurement.fidelity._asdict() if measurement and measurement.fidelity else dict.fromkeys(Fidelity._fields)
    speed = {name: getattr(measurement, name, None) for name in ("texts_per_s", "speedup")}
    return {"name": candidate.name, **fidelity, **speed, "verdict": candidate.verdict, "why": candidate.why}


COLUMNS = {"agreement": "10.2%", "accuracy": "10.2%", "batch_effect": "14.4f", "texts_per_s": "9.0f", "speedup": "10.2f"}


def format_table(candidates: list[Candidate]) -> str:
    """Return the candidates as a table for the terminal; what was not measured is left blank."""
    lines = [f"{'engine':<24}{'agreement':>10}{'accuracy':>10}{'batch effect':>14}{'texts/s':>9}{'speed-up':>10}  verdict"]
    for row in map(as_row, candidates):
        numbers = "".join(
            " " * int(form.split(".")[0]) if row[name] is None else format(row[name], form) for name, form in COLUMNS.items()
        )
        lines.append(f"{row['name']:<24}{numbers}  {row['verdict']}{': ' if row['why'] else ''}{row['why']}")
    return "\n".join(lines)
