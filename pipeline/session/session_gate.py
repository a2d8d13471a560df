"""The gate for a faster session: the same labels as fp32, no loss of accuracy, and a worthwhile speed-up."""

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
HELD_OUT_MARGIN = 0.75  # share of the tolerance on held-out rows: traffic's worst was 1.34 times their worst
Clock = Callable[[], float]


class Measurement(NamedTuple):
    """A candidate's measurements: label agreement with fp32 on held-out rows, accuracy on test rows, and speed-up."""

    agreement: float
    accuracy: float
    company: float  # largest difference of a probability between a text alone and in a batch
    texts_per_s: float
    speedup: float  # over fp32 in ONNX Runtime, median of rounds


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


def time_in_turns(calls: dict[str, Callable[[], None]], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Return the seconds of each call per round; a round runs all calls in rotating order, so they share the noise."""
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
) -> dict[str, Measurement]:
    """Compare each candidate with fp32; `seconds` come from `time_in_turns` with this number of texts."""
    labels = {name: np.array(predictions.labels) for name, predictions in answers.items()}
    return {
        name: Measurement(
            agreement=float(np.mean(labels[name] == labels[BASELINE])),
            accuracy=float(np.mean((labels[name] == rows.labels)[rows.is_test])),
            company=company[name],
            texts_per_s=texts / float(np.median(seconds[name])),
            speedup=float(np.median(np.divide(seconds[BASELINE], seconds[name]))),
        )
        for name in answers
    }


def decide_session(measured: dict[str, Measurement], absent: dict[str, str], settings: Session) -> tuple[str, list[Candidate]]:
    """Return the session to serve with, and all candidates with their verdicts.

    Raises `RefusedError` if params name a session that does not pass, `ToolError` if they name one that cannot run here.
    """
    refused = {name: _refusal(measurement, measured[BASELINE], settings) for name, measurement in measured.items()}
    if settings.choice in absent:
        raise ToolError(f"session.choice = {settings.choice}", absent[settings.choice], "set session.choice to auto")
    if refused.get(settings.choice):
        raise RefusedError(f"session.choice = {settings.choice}", refused[settings.choice], "set session.choice to auto")
    passed = [name for name in measured if not refused[name]]
    best = max(measured[name].speedup for name in passed)
    near = [name for name in passed if measured[name].speedup * settings.min_speedup >= best]  # about equally fast
    chosen = max(near, key=lambda name: (measured[name].agreement, measured[name].speedup))
    chosen = chosen if measured[chosen].speedup >= settings.min_speedup else BASELINE
    chosen = chosen if settings.choice == "auto" else settings.choice
    candidates = [Candidate(name, None, "cannot run", why) for name, why in absent.items()]
    for name, measurement in measured.items():
        verdict = "chosen" if name == chosen else "refused" if refused[name] else "passed"
        candidates.append(
            Candidate(name, measurement, verdict, refused[name] or _why_not_chosen(name, chosen, measured, settings))
        )
    return chosen, sorted(candidates, key=lambda candidate: list(SESSIONS).index(candidate.name))


def _why_not_chosen(name: str, chosen: str, measured: dict[str, Measurement], settings: Session) -> str:
    """Return why a session that passed is not the chosen one, or "" for the chosen one."""
    speedup = measured[name].speedup
    if name == chosen or (name == BASELINE and speedup < settings.min_speedup):
        return ""
    if speedup < settings.min_speedup:
        return f"{speedup:.2f} times as fast as fp32, {settings.min_speedup} needed"
    return f"{chosen} is {'faster' if measured[chosen].speedup > speedup else 'closer to fp32, and hardly slower'}"


def _refusal(measurement: Measurement, baseline: Measurement, settings: Session) -> str:
    """Return why the candidate does not match fp32, or "" if it does."""
    why = []
    if not measurement.agreement >= settings.min_agreement:
        why.append(f"{measurement.agreement:.2%} of labels agree with fp32, {settings.min_agreement:.2%} needed")
    lost = baseline.accuracy - measurement.accuracy
    if not lost <= settings.max_accuracy_loss:
        why.append(
            f"accuracy {measurement.accuracy:.2%}, fp32 {baseline.accuracy:.2%}: {100 * lost:.2f} points lost, "
            f"{100 * settings.max_accuracy_loss:.2f} allowed"
        )
    allowed = HELD_OUT_MARGIN * settings.golden_atol
    if not measurement.company <= allowed:
        why.append(f"a probability moves by {measurement.company:.4f} with the other texts in its batch, {allowed:g} allowed")
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


def format_table(candidates: list[Candidate]) -> str:
    """Format the candidates as a text table."""
    lines = [f"{'session':<24}{'agreement':>10}{'accuracy':>10}{'company':>9}{'texts/s':>9}{'speed-up':>10}  verdict"]
    for name, measurement, verdict, why in candidates:
        numbers = (
            f"{measurement.agreement:>10.2%}{measurement.accuracy:>10.2%}{measurement.company:>9.4f}{measurement.texts_per_s:>9.0f}{measurement.speedup:>10.2f}"
            if measurement
            else " " * 48
        )
        lines.append(f"{name:<24}{numbers}  {verdict}{': ' if why else ''}{why}")
    return "\n".join(lines)
