"""Draw the release bench: what each rule catches and harms, how the evidence grows, and what the estimate rule costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monitoring.release.verdicts.bets import log_e_above
from monitoring.release.verdicts.planner import SimulatedVerdicts
from monitoring.release.verdicts.shadow import GAINED, LOST, shadow_thresholds
from pipeline.charts import GREEN, GREY, RUST
from pipeline.params import ReleaseSettings
from tests.bench.release.replay import make_stream
from tests.bench.release.rows import GOAL_LOSS, Compared
from tests.bench.release.worlds import Case, Corpus

OURS = "ours, ≤ 150 labels"
PATHS, TEXTS = 6, 1500
Estimates = Mapping[float, tuple[SimulatedVerdicts, SimulatedVerdicts]]  # disagreement → equally good, −2 points


def draw(compared: Sequence[Compared], estimates: Estimates, corpus: Corpus, settings: ReleaseSettings, path: Path) -> None:
    """Draw the four panels."""
    figure = Figure(figsize=(15, 10), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    shown = [one for one in compared if one.played.case.lost == GOAL_LOSS]
    draw_bars(first, shown, "power", "2 points worse: refused or rolled back (%)")
    first.legend(loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=len(shown))
    draw_bars(second, shown, "harmed", "2 points worse: harmed requests a release")
    draw_evidence(third, corpus, settings, shown[0].played.case)
    draw_estimates(fourth, estimates)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def draw_bars(axes: Axes, shown: Sequence[Compared], field: str, title: str) -> None:
    """Draw a bar a rule for each kind of version."""
    names = [OURS, *shown[0].reactions]
    width = 0.8 / len(shown)
    for place, (one, colour) in enumerate(zip(shown, (GREEN, RUST, GREY), strict=False)):
        reactions = one.reactions.values()
        if field == "power":
            values = [one.played.verdicts.is_refused.mean(), *(reaction.is_rolled_back.mean() for reaction in reactions)]
            values = [100 * value for value in values]
        else:
            values = [one.played.harmed.mean(), *(reaction.harmed.mean() for reaction in reactions)]
        bars = axes.barh(np.arange(len(names)) + width * place, values, width, color=colour, label=one.played.case.kind)
        axes.bar_label(bars, fmt="%.0f" if field == "harmed" else "%.1f", padding=2, fontsize=8)
    axes.set_yticks(np.arange(len(names)) + width * (len(shown) - 1) / 2, names)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.margins(x=0.12)


def draw_evidence(axes: Axes, corpus: Corpus, settings: ReleaseSettings, worse: Case) -> None:
    """Draw both e-processes of some releases: "worse" on worse versions, "not worse" on equally good ones."""
    needed = shadow_thresholds(settings)
    for case, colour in ((worse, RUST), (worse._replace(lost=0.0), GREEN)):
        for number in range(PATHS):
            outcomes = make_stream(corpus, case, 99, number).outcomes[:TEXTS]
            gained, lost = (np.cumsum(outcomes == kind, dtype=np.float64) for kind in (GAINED, LOST))
            equal = np.arange(1, TEXTS + 1) - gained - lost
            log_e = log_e_above(0.0, equal, lost, gained) if case.lost else log_e_above(-settings.margin, equal, gained, lost)
            axes.plot(log_e, color=colour, alpha=0.6, linewidth=1)
    axes.axhline(needed.worse, color=RUST, linestyle="--", label="proved worse")
    axes.axhline(needed.not_worse, color=GREEN, linestyle="--", label="proved not worse by the margin")
    axes.set_ylim(-4, 10)
    axes.set_xlabel("texts that both have answered")
    axes.set_title('log e: "worse" (red: 2 points worse), "not worse" (green: equally good)')
    axes.legend()


def draw_estimates(axes: Axes, estimates: Estimates) -> None:
    """Draw what is refused with proof, and with the rule for undecided versions, over the disagreement."""
    places = [100 * disagreement for disagreement in estimates]
    for side, colour, name in ((0, GREEN, "equally good"), (1, RUST, "2 points worse")):
        every = [100 * pair[side].is_refused.mean() for pair in estimates.values()]
        proved = [100 * (pair[side].is_refused & ~pair[side].is_low).mean() for pair in estimates.values()]
        axes.plot(places, every, color=colour, marker="o", label=f"{name}: with the estimate rule")
        axes.plot(places, proved, "--", color=colour, marker="o", label=f"{name}: with proof alone")
    axes.set_xlabel("texts on which the versions differ (%)")
    axes.set_title("refused in the shadow (%)")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.72))
