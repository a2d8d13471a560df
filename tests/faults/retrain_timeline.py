"""The time line of the drill of retrains: every attempt at every step, what was done to it, and whether a champion was there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from monitoring.retrain.journal import STEPS
from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import atomic_write
from tests.faults.retrain_environment import Look
from tests.faults.timeline import AMBER, SHADE

COLOURS = dict(zip(STEPS, (GREY, "#4c78a8", AMBER, "#8d6cab", GREEN), strict=True))


class Fault(NamedTuple):
    """Something that was done to a retrain."""

    retrain: int
    name: str
    since_s: float  # of the epoch
    until_s: float


class RetrainStory(NamedTuple):
    """All that the picture shows."""

    names: Sequence[str]  # of what was done, by retrain from 1
    steps: Sequence[Any]  # rows of the journal
    ends: Mapping[int, str]  # by retrain: how it ended
    faults: Sequence[Fault]
    looks: Sequence[Look]

    def rows(self) -> list[dict[str, Any]]:
        """One row an attempt."""
        zero_s = self._zero_s()
        return [
            {
                "retrain": one.retrain_id, "step": one.step, "attempt": one.attempt, "fence": one.fence, "outcome": one.outcome,
                "began_s": round(one.began_at - zero_s, 2), "ended_s": round((one.ended_at or one.began_at) - zero_s, 2),
            }
            for one in self.steps
        ]  # fmt: skip

    def _zero_s(self) -> float:
        return min([one.began_at for one in self.steps] + [one.since_s for one in self.faults])

    def draw(self, path: Path) -> None:
        """The picture, as PNG: a lane for each retrain on a clock of its own, one for the champion below."""
        figure = Figure(figsize=(12, 1.6 + 1.5 * len(self.names)), layout="constrained")
        lanes = figure.subplots(len(self.names), 1, squeeze=False)[:, 0]
        good = sum(look.is_good for look in self.looks)
        bad = len(self.looks) - good
        figure.suptitle(f"Retrains under faults; a whole champion was there at {good} of {good + bad} looks")
        for number, (axes, name) in enumerate(zip(lanes, self.names, strict=True), start=1):
            self._draw_lane(axes, number, name)
        for step, colour in COLOURS.items():
            lanes[0].barh(0, 0, color=colour, label=step)
        lanes[0].barh(0, 0, color="white", edgecolor=RUST, hatch="////", label="lost or failed")
        lanes[0].plot([], [], "x", color=RUST, label="killed")
        lanes[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.1), fontsize=8)
        lanes[-1].set_xlabel("seconds since the first fault or step of the retrain")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            figure.savefig(part, format="png", dpi=110)

    def _draw_lane(self, axes: Any, number: int, name: str) -> None:
        steps = [one for one in self.steps if one.retrain_id == number]
        faults = [one for one in self.faults if one.retrain == number]
        zero_s = min([one.began_at for one in steps] + [one.since_s for one in faults], default=0.0)
        for one in steps:
            is_lost = one.outcome != "done"
            took_s = (one.ended_at or one.began_at) - one.began_at
            style = {"edgecolor": RUST, "hatch": "////", "alpha": 0.45, "linewidth": 0.4} if is_lost else {"linewidth": 0}
            axes.barh(0, took_s, left=one.began_at - zero_s, height=0.6, color=COLOURS[one.step], **style)
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
