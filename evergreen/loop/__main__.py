"""`make loop`: drift, alert, labels, retrain, gate, new champion, with real processes, in a scratch home, in six minutes.

Leaves `reports/loop.json` and a picture beside it. Exit codes: 0 every promise was kept · 1 one was broken · 130 stopped.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from evergreen.loop import picture
from evergreen.loop.customers import Annotators, Asked, Customers
from evergreen.loop.display import Display
from evergreen.loop.environment import PACKAGE, Place, enter, lay_out, left_over, running
from evergreen.loop.events import Event, Facts
from evergreen.loop.scorecard import Quality, curve, promises, quality
from evergreen.loop.turn import Turn
from evergreen.promises import Outcome, table
from pipeline.data.records import write_json
from pipeline.errors import run_stage
from pipeline.home import git, is_dirty, main_worktree
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.sessions import open_session
from pipeline.session.golden_answers import read_golden
from serving.loadtest.replay import read_line_of_time

TRAFFIC, OUT = Path("data/traffic.jsonl"), Path("reports")
LOOK_S = 0.3


class Turned(NamedTuple):
    """What is left of a turn."""

    asked: Sequence[Asked]
    not_taken: Sequence[str]  # why labels were not
    facts: Facts
    events: Sequence[Event]


def turn(place: Place, rows: Sequence[dict[str, Any]], display: Display, zero_s: float, limit_s: float) -> Turned:
    """Start everything, turn once, end everything."""
    zero_wall = time.time() - (time.monotonic() - zero_s)
    display.say(
        time.monotonic() - zero_s, "Triton, gateway, monitor, Prometheus, Alertmanager, inbox, receiver and controller start"
    )
    with (
        running(place),
        Customers(rows, place.gateway, zero_s) as customers,
        Annotators(customers.asked, place.gateway) as people,
    ):
        display.say(
            time.monotonic() - zero_s, f"all of them are ready; the inbox: http://127.0.0.1:{place.params.alerts.inbox_port}"
        )
        this = Turn(place, customers, people, zero_s, zero_wall)
        told: list[Event] = []
        while not this.is_over and this.now_s < limit_s:
            told = this.look()
            display.show(this.now_s, told, this.facts, customers.so_far())
            time.sleep(LOOK_S)
        return Turned(customers.so_far(), people.failures, this.facts, told)


def judge(turned: Turned, found: Quality, *, whole_s: float, left: int) -> Outcome:
    """The scorecard."""
    kept = promises(
        turned.asked, turned.facts, found, turned.events, not_taken=len(turned.not_taken), whole_s=whole_s, left_over=left
    )
    notes = [
        f"right answers: {found.before:.1%} before the launch, {found.fallen:.1%} of version 1 on what came then;",
        f"of the {found.messages_after} new messages after the swap the new champion had {found.after:.1%} right,"
        f" version 1 has {found.without:.1%}",
    ]
    retrain = turned.facts.retrain
    if retrain and retrain["failure"]:
        notes.append(f"the retrain was {retrain['state']} at step {retrain['step']}: {retrain['failure']}")
    return Outcome(
        "loop", "from drift to a better champion", kept, notes, {"quality": found._asdict() | {"won_back": found.won_back}}
    )


def write(outcome: Outcome, turned: Turned, folder: Path) -> Path:
    """`loop.json`: promises, events, quality and its curve, with commit and date (UTC)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "loop.json"
    told = {
        "kept": outcome.is_kept,
        "commit": git("rev-parse", "HEAD"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "promises": [{**_finite(one._asdict()), "kept": one.is_kept} for one in outcome.promises],
        "quality": _finite(outcome.figures["quality"]),
        "events": [event._asdict() for event in turned.events],
        "curve": curve(turned.asked),
        "messages": [
            {"at_s": round(one.at_s, 3), "version": one.version, "right": one.is_right, "failure": one.failure}
            for one in turned.asked
        ],
    }
    write_json(path, told)
    return path


def first_version(package: Path, texts: Sequence[str]) -> list[str]:
    """What the packaged model says of them, offline."""
    session = read_golden(package).session
    said = Classifier(package / "1", session=open_session(package / "1", session, 2)).predict(list(texts))
    return list(said.labels)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()}


def main() -> None:
    """`python -m evergreen.loop`."""
    zero_s = time.monotonic()
    parser = argparse.ArgumentParser(prog="make loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", type=Path, default=TRAFFIC, help="jsonl with text, unit, label and phase")
    parser.add_argument("--limit-s", type=float, default=900.0, help="given up after this")
    parser.add_argument("--keep", type=Path, help="a new folder for clone, home and logs, which stays; by default all goes")
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    console, source = Console(highlight=False, soft_wrap=True), main_worktree()
    rows = read_line_of_time(asked.traffic)
    if is_dirty():
        console.print("[yellow]files here differ from HEAD: a retrain is made from HEAD[/]")
    scratch = asked.keep or Path(tempfile.mkdtemp(prefix="evergreen-loop-"))
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        place = lay_out(source, scratch.resolve())
        enter(place)
        with Display(console) as display:
            turned = turn(place, rows, display, zero_s, asked.limit_s)
        found = quality(turned.asked, lambda texts: first_version(source / PACKAGE, texts))
        picture.draw(turned.asked, turned.events, found, OUT / "loop.png")
        outcome = judge(turned, found, whole_s=time.monotonic() - zero_s, left=len(left_over(place)))
        path = write(outcome, turned, OUT)
    except KeyboardInterrupt:
        console.print("[yellow]stopped; all that was started has ended[/]")
        raise SystemExit(130) from None
    finally:
        if not asked.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    console.print(table(outcome))
    for note in outcome.notes:
        console.print(escape(note))
    console.print(f"→ {path}, {OUT / 'loop.png'}")
    sys.exit(0 if outcome.is_kept else 1)


if __name__ == "__main__":
    run_stage(main)
