"""The page of a study: question, claim, settings, table, picture and result. Equal measurements give equal bytes."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from textwrap import fill
from typing import NamedTuple

from pipeline import charts
from pipeline.atomic_write import atomic_write
from pipeline.metrics import mcnemar
from pipeline.tuning.study import ArmMeasurement, ArmRun, Study, dvc_argument, unpack_bits

ARTICLE = "*The article* is a tutorial that these studies test: [which](README.md)."
SIDES = ("val", "test", "train")
HEADER = (
    "arm", "validation, %", "test, %", "training rows, %", "test rows gained / lost (p)",
    "CPU s of steps", "trained numbers", "optimiser, MiB", "bad steps",
)  # fmt: skip


class ArmSummary(NamedTuple):
    """The results of one arm over its seeds."""

    arm: str
    accuracy: dict[str, list[float]]  # by side, one value for each seed
    gained: int  # test rows that only this arm gets right, over all seeds
    lost: int  # test rows that only the first arm gets right, over all seeds
    p: float  # of equal accuracy, on the first seed
    cpu_s: float  # mean
    trained: int  # number of trained parameters
    optimizer_mib: float
    bad_steps: float  # mean


def summarise_arms(runs: Sequence[ArmRun], measured: Mapping[str, ArmMeasurement]) -> list[ArmSummary]:
    """Summarise the arms whose seeds were all measured, in order, each compared with the study's first arm."""
    by_arm: dict[str, list[ArmMeasurement]] = {}
    for arm in dict.fromkeys(run.arm for run in runs):
        measurements = [measured.get(run.key) for run in runs if run.arm == arm]
        if all(measurements):
            by_arm[arm] = [measurement for measurement in measurements if measurement]
    first = by_arm.get(runs[0].arm)
    return [summarise(arm, measurements, first or measurements) for arm, measurements in by_arm.items()]


def summarise(arm: str, measurements: Sequence[ArmMeasurement], control: Sequence[ArmMeasurement]) -> ArmSummary:
    """Summarise one arm, compared seed by seed with a control arm."""
    pairs = [
        compare(unpack_bits(ours.right), unpack_bits(theirs.right)) for ours, theirs in zip(measurements, control, strict=True)
    ]
    training = [measurement.training for measurement in measurements]
    return ArmSummary(
        arm,
        {side: [measurement.scores[side]["accuracy"] for measurement in measurements] for side in SIDES},
        sum(gained for gained, _ in pairs),
        sum(lost for _, lost in pairs),
        mcnemar(*pairs[0]),
        mean(metrics["cpu_seconds"] for metrics in training),
        round(training[0]["memory_trained_mib"] * 2**20 / 4),
        training[0]["memory_optimizer_mib"],
        mean(metrics["bad_steps"] for metrics in training),
    )


def compare(candidate: Sequence[bool], control: Sequence[bool]) -> tuple[int, int]:
    """Count the rows that only the candidate gets right, and those that only the control gets right."""
    pairs = list(zip(candidate, control, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def standard_error(share: float, rows: int) -> float:
    """Return the binomial standard error of a share observed on `rows` rows."""
    return sqrt(share * (1 - share) / rows)


def in_percent(values: Sequence[float]) -> str:
    """Format one value, or mean ± standard deviation over seeds, in percent."""
    if len(values) == 1:
        return f"{100 * values[0]:.2f}"
    return f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}"


def table(arms: Sequence[ArmSummary]) -> str:
    """Return the table as Markdown, with CPU time also as a multiple of the first arm's."""
    rows = [HEADER, ["---"] * len(HEADER)]
    for arm in arms:
        comparison = "" if arm is arms[0] else f"{arm.gained} / {arm.lost} ({arm.p:.2g})"
        scores = [in_percent(arm.accuracy[side]) for side in SIDES]
        cpu = f"{arm.cpu_s:.0f} ({arm.cpu_s / arms[0].cpu_s:.2f}x)"
        rows.append([arm.arm, *scores, comparison, cpu, f"{arm.trained:,}", f"{arm.optimizer_mib:.1f}", f"{arm.bad_steps:g}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(name: str, study: Study, runs: Sequence[ArmRun], measured: Mapping[str, ArmMeasurement]) -> str:
    """Return the whole page as Markdown."""
    summaries = summarise_arms(runs, measured)
    arms = "\n".join(
        f"- **{arm}**: {describe_settings(overrides) or 'no further change'}" for arm, overrides in study.arms.items()
    )
    changed = describe_settings(study.base) or "nothing changed"
    parts = [
        f"# {study.question}",
        f"`make studies` or `.venv/bin/python -m pipeline.tuning.studies {name}`, from [{name}.yaml]({name}.yaml)",
        paragraph(f"**Claim.** {study.claim.strip()}"),
        *([ARTICLE] if "article" in study.claim.casefold() else []),
        paragraph(f"**Settings.** params.yaml with {changed}, {describe_seeds(study.seeds)}; arms:"),
        arms,
    ]
    if len(summaries) > 1:  # one arm alone answers nothing
        parts += [table(summaries), paragraph(note(runs, summaries, measured)), f"![{study.question}]({name}.png)"]
    missing = len(study.arms) - len(summaries)
    if missing:
        parts.append(f"**{missing} of {len(study.arms)} arms are not measured yet.**")
    return "\n\n".join([*parts, paragraph(f"**Result.** {study.found.strip()}")]) + "\n"


def note(runs: Sequence[ArmRun], arms: Sequence[ArmSummary], measured: Mapping[str, ArmMeasurement]) -> str:
    """Return the note that explains the table."""
    measurements = [measured[run.key] for run in runs if run.key in measured]
    rows, best = measurements[0].rows, max(arms, key=lambda arm: mean(arm.accuracy["val"]))
    error = {side: 100 * standard_error(mean(arms[0].accuracy[side]), rows[side]) for side in ("val", "test")}
    dates = ", ".join(sorted({measurement.date for measurement in measurements}))
    return (
        f"Measured on {dates}. Validation chooses (here: *{best.arm}*), the test rows report. The standard error of an accuracy "
        f"is {error['val']:.1f} points on {rows['val']} validation rows and {error['test']:.1f} on {rows['test']} test rows. "
        f"Gained and lost are the test rows that only this arm, or only *{arms[0].arm}*, gets right, with McNemar's exact p for "
        "the first seed. CPU time is that of training steps over all threads. It is not wall-clock time, and other work on the "
        "machine adds to it."
    )


def paragraph(text: str) -> str:
    """Wrap a paragraph of Markdown at 100 characters."""
    return fill(text, 100, break_long_words=False, break_on_hyphens=False)


def describe_seeds(seeds: Sequence[int]) -> str:
    """List the seeds."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def describe_settings(overrides: Mapping[str, object]) -> str:
    """List overrides as arguments of `dvc exp run -S`."""
    return ", ".join(f"`{dvc_argument(*item)}`" for item in overrides.items())


def write_page(name: str, study: Study, runs: Sequence[ArmRun], measured: Mapping[str, ArmMeasurement], folder: Path) -> None:
    """Write `<name>.md`, and `<name>.png` when two or more arms were measured."""
    arms = summarise_arms(runs, measured)
    if len(arms) > 1:
        keys = {run.key for run in runs}
        rows = next(measurement.rows for measurement in measured.values() if measurement.key in keys)
        figure = charts.arms([(arm.arm, arm.accuracy, arm.cpu_s) for arm in arms], rows)
        with atomic_write(folder / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=110, metadata={"Software": None})
    with atomic_write(folder / f"{name}.md") as part:
        part.write_text(page(name, study, runs, measured), encoding="utf-8")
