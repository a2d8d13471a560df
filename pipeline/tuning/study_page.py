"""A study as a page: question, claim, table, picture, and what was found. The same measurements give the same bytes."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from pipeline import charts
from pipeline.atomic_write import atomic_write
from pipeline.metrics import mcnemar
from pipeline.tuning.study import Measured, Run, Study, as_argument, from_bits

SIDES = ("val", "test", "train")
HEADER = (
    "arm", "validation, %", "test, %", "training rows, %", "test rows gained / lost (p)",
    "CPU s of steps", "trained numbers", "optimiser, MiB", "bad steps",
)  # fmt: skip


class Line(NamedTuple):
    """One arm over its seeds."""

    arm: str
    accuracy: dict[str, list[float]]  # by side, a value a seed
    gained: int
    lost: int
    p: float  # of equal accuracy, on the first seed
    cpu_s: float  # mean
    trained: int
    optimizer_mib: float
    bad_steps: float  # mean


def lines_of(runs: Sequence[Run], measured: Mapping[str, Measured]) -> list[Line]:
    """Of the arms all of whose seeds were measured, in order; the first arm of the study is what others are held against."""
    by_arm: dict[str, list[Measured]] = {}
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [measured.get(run.key) for run in runs if run.arm == arm]
        if all(own):
            by_arm[arm] = [one for one in own if one]
    first = by_arm.get(runs[0].arm)
    return [line(arm, own, first or own) for arm, own in by_arm.items()]


def line(arm: str, own: Sequence[Measured], first: Sequence[Measured]) -> Line:
    """The numbers of one arm, against those of another with the same seeds."""
    pairs = [compare(from_bits(one.right), from_bits(other.right)) for one, other in zip(own, first, strict=True)]
    training = [one.training for one in own]
    return Line(
        arm,
        {side: [one.scores[side]["accuracy"] for one in own] for side in SIDES},
        sum(gained for gained, _ in pairs),
        sum(lost for _, lost in pairs),
        mcnemar(*pairs[0]),
        mean(one["cpu_seconds"] for one in training),
        round(training[0]["memory_trained_mib"] * 2**20 / 4),
        training[0]["memory_optimizer_mib"],
        mean(one["bad_steps"] for one in training),
    )


def compare(now: Sequence[bool], before: Sequence[bool]) -> tuple[int, int]:
    """Rows that only the first gets right, and rows that only the second does."""
    pairs = list(zip(now, before, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def standard_error(share: float, rows: int) -> float:
    """Binomial, of a share seen on so many rows."""
    return sqrt(share * (1 - share) / rows)


def in_percent(values: Sequence[float]) -> str:
    """One value, or mean ± standard deviation over seeds."""
    if len(values) == 1:
        return f"{100 * values[0]:.2f}"
    return f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}"


def table(lines: Sequence[Line]) -> str:
    """Markdown; CPU time also as a multiple of the first arm's."""
    rows = [HEADER, ["---"] * len(HEADER)]
    for one in lines:
        is_first = one is lines[0]
        against = "" if is_first else f"{one.gained} / {one.lost} ({one.p:.2g})"
        scores = [in_percent(one.accuracy[side]) for side in SIDES]
        cpu = f"{one.cpu_s:.0f} ({one.cpu_s / lines[0].cpu_s:.2f}x)"
        rows.append([one.arm, *scores, against, cpu, f"{one.trained:,}", f"{one.optimizer_mib:.1f}", f"{one.bad_steps:g}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(name: str, study: Study, runs: Sequence[Run], measured: Mapping[str, Measured]) -> str:
    """The whole page as Markdown."""
    lines = lines_of(runs, measured)
    arms = "\n".join(f"- **{arm}**: {settings(own) or 'as it is shipped'}" for arm, own in study.arms.items())
    parts = [
        f"# {study.question}",
        f"`make studies` or `.venv/bin/python -m pipeline.tuning.studies {name}`, from [{name}.yaml]({name}.yaml)",
        f"**What is claimed.** {study.claim.strip()}",
        f"**What was run.** params.yaml with {settings(study.base) or 'nothing changed'}, {of_seeds(study.seeds)}; then",
        arms,
    ]
    if len(lines) > 1:  # one arm alone answers nothing
        parts += [table(lines), note(runs, lines, measured), f"![{study.question}]({name}.png)"]
    missing = len(study.arms) - len(lines)
    if missing:
        parts.append(f"**{missing} of {len(study.arms)} arms are not measured yet.**")
    return "\n\n".join([*parts, f"**What really happened.** {study.found.strip()}"]) + "\n"


def note(runs: Sequence[Run], lines: Sequence[Line], measured: Mapping[str, Measured]) -> str:
    """How to read the table."""
    own = [measured[run.key] for run in runs if run.key in measured]
    rows, best = own[0].rows, max(lines, key=lambda one: mean(one.accuracy["val"]))
    error = {side: 100 * standard_error(mean(lines[0].accuracy[side]), rows[side]) for side in ("val", "test")}
    dates = ", ".join(sorted({one.date for one in own}))
    return (
        f"Measured on {dates}. Validation chooses (here: *{best.arm}*), the test rows report. The standard error of an accuracy "
        f"is {error['val']:.1f} points on {rows['val']} validation rows, {error['test']:.1f} on {rows['test']} test rows. Gained "
        f"and lost: test rows that only this arm or only *{lines[0].arm}* gets right, with McNemar's exact p for the first seed. "
        "CPU time is that of training steps, all threads: no wall-clock time, and other work on the machine adds to it."
    )


def of_seeds(seeds: Sequence[int]) -> str:
    """In words."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def settings(overrides: Mapping[str, object]) -> str:
    """As they stand on the command line, behind `-S`."""
    return ", ".join(f"`{as_argument(*item)}`" for item in overrides.items())


def write_page(name: str, study: Study, runs: Sequence[Run], measured: Mapping[str, Measured], folder: Path) -> None:
    """`<name>.md`, and `<name>.png` where two arms or more were measured."""
    lines = lines_of(runs, measured)
    if len(lines) > 1:
        rows = next(one.rows for one in measured.values() if one.key in {run.key for run in runs})
        figure = charts.arms([(one.arm, one.accuracy, one.cpu_s) for one in lines], rows)
        with atomic_write(folder / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=110, metadata={"Software": None})
    with atomic_write(folder / f"{name}.md") as part:
        part.write_text(page(name, study, runs, measured), encoding="utf-8")
