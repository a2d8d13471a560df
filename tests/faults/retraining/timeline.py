"""Draw the time line of the drill of retrains: attempts at steps, faults, and whether a champion was there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from monitoring.retrain.journal import STEPS
from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import atomic_write
from tests.faults.retraining.environment import ChampionCheck
from tests.faults.timeline import AMBER, SHADE

COLOURS = dict(zip(STEPS, (GREY, "#4c78a8", AMBER, "#8d6cab", "#9ecae9", "#72b7b2", GREEN), strict=True))


class Fault(NamedTuple):
    """Describe a fault of a retrain."""

    retrain: int
    name: str
    since_s: float  # of the epoch
    until_s: float


class RetrainTimeline(NamedTuple):
    """Hold everything that the picture shows."""

    names: Sequence[str]  # of the faults, by retrain from 1
    steps: Sequence[Any]  # rows of the journal
    ends: Mapping[int, str]  # outcome by retrain
    faults: Sequence[Fault]
    checks: Sequence[ChampionCheck]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each attempt."""
        zero_s = self._zero_s()
        return [
            {
                "retrain": step.retrain_id,
                "step": step.step,
                "attempt": step.attempt,
                "fence": step.fence,
                "outcome": step.outcome,
                "began_s": round(step.began_at - zero_s, 2),
                "ended_s": round((step.ended_at or step.began_at) - zero_s, 2),
            }
            for step in self.steps
        ]

    def _zero_s(self) -> float:
        return min([step.began_at for step in self.steps] + [fault.since_s for fault in self.faults])

    def draw(self, path: Path) -> None:
        """Draw the time line as PNG, with a panel for each retrain on its clock."""
        figure = Figure(figsize=(12, 1.6 + 1.5 * len(self.names)), layout="constrained")
        panels = figure.subplots(len(self.names), 1, squeeze=False)[:, 0]
        good = sum(check.is_good for check in self.checks)
        bad = len(self.checks) - good
        figure.suptitle(f"Retrains under faults; a whole champion was there at {good} of {good + bad} looks")
        for number, (axes, name) in enumerate(zip(panels, self.names, strict=True), start=1):
            self._draw_retrain(axes, number, name)
        for step, colour in COLOURS.items():
            panels[0].barh(0, 0, color=colour, label=step)
        panels[0].barh(0, 0, color="white", edgecolor=RUST, hatch="////", label="lost or failed")
        panels[0].plot([], [], "x", color=RUST, label="killed")
        panels[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.1), fontsize=8)
        panels[-1].set_xlabel("seconds since the first fault or step of the retrain")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            figure.savefig(part, format="png", dpi=110)

    def _draw_retrain(self, axes: Any, number: int, name: str) -> None:
        steps = [step for step in self.steps if step.retrain_id == number]
        faults = [fault for fault in self.faults if fault.retrain == number]
        zero_s = min([step.began_at for step in steps] + [fault.since_s for fault in faults], default=0.0)
        for step in steps:
            is_lost = step.outcome != "done"
            duration_s = (step.ended_at or step.began_at) - step.began_at
            style = {"edgecolor": RUST, "hatch": "////", "alpha": 0.45, "linewidth": 0.4} if is_lost else {"linewidth": 0}
            axes.barh(0, duration_s, left=step.began_at - zero_s, height=0.6, color=COLOURS[step.step], **style)
        for fault in faults:
            if fault.until_s > fault.since_s:
                axes.axvspan(fault.since_s - zero_s, fault.until_s - zero_s, color=SHADE, linewidth=0, zorder=0)
            else:
                axes.plot([fault.since_s - zero_s], [0.42], "x", color=RUST, markersize=4)
        end = self.ends.get(number, "never began")
        axes.set_title(f"{name}: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}, then {end}", loc="left", fontsize=9)
        axes.set_yticks([])
        axes.set_ylim(-0.4, 0.6)
        axes.set_xlim(left=0)
