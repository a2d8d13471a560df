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
from pipeline.runtime.outputs import ModelOutputs
from pipeline.runtime.sessions import SESSIONS

BASELINE = "onnxruntime-fp32"
HELD_OUT_MARGIN = 0.75  # of what a probability may move, on held-out rows: the worst of all traffic was 1.34 times their worst
Clock = Callable[[], float]


class Measured(NamedTuple):
    """What a candidate did: labels held against fp32 on all held-out rows, accuracy on the test rows, speed beside fp32."""

    agreement: float
    accuracy: float
    company: float  # the most that a probability of a text differs between alone and beside others
    texts_per_s: float
    speedup: float  # over fp32 in ONNX Runtime, median of rounds


class Candidate(NamedTuple):
    """One row of the table; `found` is None for one that cannot run here."""

    name: str
    found: Measured | None
    verdict: str  # chosen | passed | refused | cannot run
    why: str


class HeldOut(NamedTuple):
    """Rows that the model did not learn from: validation, then test."""

    texts: list[str]
    labels: NDArray[np.str_]
    is_test: NDArray[np.bool_]


def time_in_turns(calls: dict[str, Callable[[], None]], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of each call by round; all have their turn in each, another one first each time, so that they share the noise."""
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return seconds


def measure_candidates(
    answers: dict[str, ModelOutputs], rows: HeldOut, company: dict[str, float], seconds: dict[str, list[float]], texts: int
) -> dict[str, Measured]:
    """Each candidate held against fp32; `seconds` are those of `timed`, for so many texts."""
    labels = {name: np.array(own.labels) for name, own in answers.items()}
    return {
        name: Measured(
            agreement=float(np.mean(labels[name] == labels[BASELINE])),
            accuracy=float(np.mean((labels[name] == rows.labels)[rows.is_test])),
            company=company[name],
            texts_per_s=texts / float(np.median(seconds[name])),
            speedup=float(np.median(np.divide(seconds[BASELINE], seconds[name]))),
        )
        for name in answers
    }


def decide_session(measured: dict[str, Measured], absent: dict[str, str], settings: Session) -> tuple[str, list[Candidate]]:
    """The session to serve with, and what is said of each candidate.

    Raises `RefusedError` when params name one that does not pass, `ToolError` when they name one that cannot run here.
    """
    refused = {name: _refusal(found, measured[BASELINE], settings) for name, found in measured.items()}
    if settings.choice in absent:
        raise ToolError(f"session.choice = {settings.choice}", absent[settings.choice], "set session.choice to auto")
    if refused.get(settings.choice):
        raise RefusedError(f"session.choice = {settings.choice}", refused[settings.choice], "set session.choice to auto")
    passed = [name for name in measured if not refused[name]]
    best = max(measured[name].speedup for name in passed)
    near = [name for name in passed if measured[name].speedup * settings.min_speedup >= best]  # as good as equally fast
    chosen = max(near, key=lambda name: (measured[name].agreement, measured[name].speedup))
    chosen = chosen if measured[chosen].speedup >= settings.min_speedup else BASELINE
    chosen = chosen if settings.choice == "auto" else settings.choice
    candidates = [Candidate(name, None, "cannot run", why) for name, why in absent.items()]
    for name, found in measured.items():
        verdict = "chosen" if name == chosen else "refused" if refused[name] else "passed"
        slow = "" if name in (chosen, BASELINE) else f"{found.speedup:.2f} times as fast as fp32, {settings.min_speedup} needed"
        other = "faster" if measured[chosen].speedup > found.speedup else "nearer to fp32, and hardly slower"
        beaten = slow if found.speedup < settings.min_speedup else f"{chosen} is {other}"
        candidates.append(Candidate(name, found, verdict, refused[name] or ("" if name == chosen else beaten)))
    return chosen, sorted(candidates, key=lambda one: list(SESSIONS).index(one.name))


def _refusal(found: Measured, plain: Measured, settings: Session) -> str:
    """Why these answers are not those of fp32, "" when they are."""
    why = []
    if not found.agreement >= settings.min_agreement:
        why.append(f"{found.agreement:.2%} of labels agree with fp32, {settings.min_agreement:.2%} needed")
    lost = plain.accuracy - found.accuracy
    if not lost <= settings.max_accuracy_loss:
        why.append(
            f"accuracy {found.accuracy:.2%} after {plain.accuracy:.2%}: {100 * lost:.2f} points lost, "
            f"{100 * settings.max_accuracy_loss:.2f} allowed"
        )
    allowed = HELD_OUT_MARGIN * settings.golden_atol
    if not found.company <= allowed:
        why.append(f"a probability moves by {found.company:.4f} with the texts beside it, {allowed:g} allowed")
    return "; ".join(why)


def machine_details(settings: Session) -> dict[str, Any]:
    """What the speeds hold for."""
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


def format_table(candidates: list[Candidate]) -> str:
    """The candidates for people."""
    lines = [f"{'session':<24}{'agreement':>10}{'accuracy':>10}{'company':>9}{'texts/s':>9}{'speed-up':>10}  verdict"]
    for name, found, verdict, why in candidates:
        numbers = (
            f"{found.agreement:>10.2%}{found.accuracy:>10.2%}{found.company:>9.4f}{found.texts_per_s:>9.0f}{found.speedup:>10.2f}"
            if found
            else " " * 48
        )
        lines.append(f"{name:<24}{numbers}  {verdict}{': ' if why else ''}{why}")
    return "\n".join(lines)
