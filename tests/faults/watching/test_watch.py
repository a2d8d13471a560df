"""Run the drill of the monitoring in small, with the real programs; each of its promises can be broken."""

import io
import json
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pipeline.output.terminal import Terminal
from pipeline.params import Params
from tests.bench.meter import Meter, Pace
from tests.faults import drill
from tests.faults.running_stack import DrillSettings
from tests.faults.scorecard import broken
from tests.faults.watching import watch
from tests.faults.watching.watch_timeline import draw_names, spread
from tests.monitoring.conftest import tools  # noqa: F401 (a fixture)
from tests.monitoring.fast_stack import PACE

IN_PEACE, IN_DRIFT = ("Alertmanager killed",), ("Prometheus stopped", "monitor killed")


@pytest.mark.usefixtures("tools")
def test_faults_of_the_monitoring_end_no_alert_and_lose_no_window(params: Params, tmp_path: Path) -> None:
    console = Terminal(file=io.StringIO())
    meter = Meter(console, Pace(0.5, 1.0, 20, 1.3), limit_s=inf, seed=0)
    setting = DrillSettings(tmp_path, tmp_path, params, [], tmp_path, console, meter, None)
    amount = watch.Amount(IN_PEACE, IN_DRIFT, PACE, rows_per_s=60.0, quiet_s=0.5, is_ended=False)
    outcome, timeline = watch.run(setting, amount)
    assert broken(outcome.promises) == [], outcome.notes
    drill.report(outcome, timeline, tmp_path, console)
    report = json.loads((tmp_path / "watch.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert report["kept"]
    assert max(row["judged"] or 0 for row in report["seconds"]) > 3
    with Image.open(tmp_path / "watch.png") as picture:
        assert picture.size[0] > 1000


STOPPED = watch.FaultResult("Prometheus stopped", True, 10.0, 20.0, back_s=2.0, told_s=7.0)
FIGURES = watch.Figures(
    fired_in_peace=0,
    onset_to_firing_s=9.0,
    called_over=0,
    silent_while_well=0,
    faults=[STOPPED],
    unlike=0,
    missing=0,
    quiet_windows=0,
    onset_to_over_s=40.0,
)


def verdict(figures: watch.Figures) -> list[str]:
    return broken(watch.judge(figures, overdue_s=8))


def test_good_numbers_break_no_promise() -> None:
    assert verdict(FIGURES) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"fired_in_peace": 1}, "alerts on drift before it began"),
        ({"onset_to_firing_s": inf}, "from the first drifted answer to the message"),
        ({"called_over": 1}, "a standing alert on drift called over"),
        ({"silent_while_well": 1}, "the alerting called silent though it was not"),
        ({"faults": [STOPPED._replace(back_s=inf)]}, "longest until all was as it should be again"),
        ({"faults": [STOPPED._replace(told_s=inf)]}, "Prometheus stopped: the switch tells after"),
        ({"faults": [STOPPED._replace(told_s=11.0)]}, "Prometheus stopped: the switch tells after"),
        ({"unlike": 1}, "rows unlike those judged in one go"),
        ({"missing": 1}, "windows not judged, or twice"),
        ({"quiet_windows": 1}, "windows without an alarm since the first: drift stood"),
        ({"onset_to_over_s": inf}, "from the last drifted answer until it is over"),
    ],
)
def test_each_number_can_break_its_promise(changed: dict[str, Any], expected: str) -> None:
    assert verdict(FIGURES._replace(**changed)) == [expected]


def test_names_of_faults_close_together_stand_side_by_side_and_in_order() -> None:
    assert spread([1.0, 1.5, 9.0, 9.0], 2.0) == [1.0, 3.0, 9.0, 11.0]
    figure = Figure(figsize=(12, 7), dpi=110)
    axes = figure.subplots()
    axes.set_xlim(0, 320)
    draw_names(axes, [(at_s, "Alertmanager killed") for at_s in (60, 62, 66, 70, 250, 284, 286, 290, 295)], 320)
    FigureCanvasAgg(figure).draw()
    names = [Text.get_window_extent(text) for text in axes.texts]  # without their lines
    assert len(names) == 9
    assert all(left.x1 <= right.x0 for left, right in pairwise(names))
