"""`make loop`: drift, alert, a queue of texts, labels, retrain, gate, new champion, with real processes, in a scratch home.

Writes `reports/loop.json` and `reports/loop.png`. Exit codes: 0 every promise was kept · 1 a promise was broken · 130 stopped.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from evergreen.loop import chart
from evergreen.loop.annotators import ANNOTATORS, Annotators, truth_of
from evergreen.loop.customers import CustomerMessage, Customers
from evergreen.loop.display import Display
from evergreen.loop.environment import Environment, create_environment, enter, leftover_processes, make_round, running
from evergreen.loop.events import Event, Facts
from evergreen.loop.promises import Outcome, table
from evergreen.loop.scenario import Scenario
from evergreen.loop.scorecard import Quality, curve, promises, quality
from pipeline.data.records import json_values, write_json
from pipeline.errors import run_stage
from pipeline.home import PACKAGE, git, is_dirty, main_worktree
from pipeline.output.terminal import Terminal, styled
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.sessions import open_session
from pipeline.session.golden_answers import read_golden
from serving.loadtest.replay import read_traffic

TRAFFIC, OUT = Path("data/traffic.jsonl"), Path("reports")
STEP_S, SEED = 0.3, 5
TEXTS = 250  # with 100, a turn of flywheel.budget, two new intents get too few to learn from (docs/loop.md)


class Labelling(NamedTuple):
    """What the annotators did."""

    texts: int
    labels: int
    wrong: int
    seconds: float
    failures: Sequence[str]  # error messages


class Recording(NamedTuple):
    """Everything that was observed in one loop."""

    messages: Sequence[CustomerMessage]
    labelling: Labelling
    facts: Facts
    events: Sequence[Event]


def play(
    environment: Environment,
    rows: Sequence[dict[str, Any]],
    display: Display,
    start_s: float,
    *,
    texts: int,
    wrong_share: float,
    limit_s: float,
) -> Recording:
    """Start everything, play the scenario to its end or for `limit_s`, end everything."""
    now_s = time.monotonic() - start_s
    start_wall = time.time() - now_s
    display.print_line(now_s, "Triton, gateway, console, monitor, Prometheus, Alertmanager, inbox and controller start")
    corpus = read_traffic(environment.source / environment.params.data.source)
    annotators = Annotators(
        environment.console_url,
        {name: environment.tokens[name] for name in ANNOTATORS},
        truth_of([*rows, *corpus]),
        make_round=partial(make_round, environment),
        budget=texts,
        wrong_share=wrong_share,
        seed=SEED,
    )
    with running(environment), Customers(rows, environment.gateway_url, start_s) as customers, annotators:
        scenario = Scenario(environment, customers, annotators, start_s, start_wall)
        inbox = f"http://127.0.0.1:{environment.params.alerts.inbox_port}"
        display.print_line(scenario.now_s, f"all of them are ready; the inbox: {inbox}")
        if environment.params.alerts.console == "here":
            display.print_line(scenario.now_s, f"to look at it: {environment.console_url}/live")
        events: list[Event] = []
        while not scenario.is_over and scenario.now_s < limit_s:
            events = scenario.step()
            display.show(scenario.now_s, events, scenario.facts, customers.snapshot())
            time.sleep(STEP_S)
        labelling = Labelling(annotators.texts, annotators.labels, annotators.wrong, annotators.seconds, annotators.failures)
        return Recording(customers.snapshot(), labelling, scenario.facts, events)


def evaluate(recording: Recording, measured: Quality, *, whole_s: float, leftover: int) -> Outcome:
    """Return the scorecard."""
    scored = promises(
        recording.messages,
        recording.facts,
        measured,
        recording.events,
        failed_labels=len(recording.labelling.failures),
        whole_s=whole_s,
        leftover=leftover,
    )
    notes = [
        f"correct answers of version 1: {measured.before:.1%} before the launch, {measured.fallen:.1%} on new messages after it;",
        f"on the {measured.messages_after} new messages after the swap: {measured.after:.1%} by the new champion,"
        f" {measured.without:.1%} by version 1",
        describe_labelling(recording),
    ]
    notes += recording.labelling.failures[:3]
    retrain = recording.facts.retrain
    if retrain and retrain["failure"]:
        notes.append(f"the retrain was {retrain['state']} at step {retrain['step']}: {retrain['failure']}")
    figures = {"quality": measured._asdict() | {"won_back": measured.won_back}}
    return Outcome("loop", "from drift to a better champion", scored, notes, figures)


def describe_labelling(recording: Recording) -> str:
    """Say how many texts were labelled, and how many it would have been without the queue."""
    labelling, everything = recording.labelling, sum(message.is_new and message.version > 0 for message in recording.messages)
    return (
        f"people gave {labelling.labels} labels to {labelling.texts} texts that the queue chose ({labelling.wrong} wrong), "
        f"instead of labelling all {everything} messages after the launch"
    )


def write(outcome: Outcome, recording: Recording, folder: Path) -> Path:
    """Write `loop.json`: promises, events, quality and its curve, with commit and date (UTC)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "loop.json"
    report = {
        "kept": outcome.is_kept,
        "commit": git("rev-parse", "HEAD"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "promises": outcome.promises_with_verdicts(),
        "quality": outcome.figures["quality"],
        "labelling": recording.labelling._asdict(),
        "events": recording.events,
        "curve": curve(recording.messages),
        "messages": [
            {"at_s": round(message.at_s, 3), "version": message.version, "right": message.is_correct, "failure": message.failure}
            for message in recording.messages
        ],
    }
    write_json(path, json_values(report))
    return path


def predict_offline(package: Path, texts: Sequence[str]) -> list[str]:
    """Return the packaged model's labels."""
    session = read_golden(package).session
    classifier = Classifier(package / "1", session=open_session(package / "1", session, 2))
    return list(classifier.predict(list(texts)).labels)


def main() -> None:
    """`python -m evergreen.loop`."""
    start_s = time.monotonic()
    parser = argparse.ArgumentParser(prog="make loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", type=Path, default=TRAFFIC, help="jsonl with text, unit, label and phase")
    parser.add_argument("--limit-s", type=float, default=900.0, help="give up after this")
    parser.add_argument("--keep", type=Path, help="a new folder in which clone, home and logs stay; by default they are deleted")
    parser.add_argument("--texts", type=int, default=TEXTS, help="that the annotators label at most")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of labels that the annotators get wrong")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts it in the background lets it be ignored
    console, source = Terminal(), main_worktree()
    rows = read_traffic(args.traffic)
    if is_dirty():
        console.print(styled("files here differ from HEAD: a retrain uses HEAD", "yellow"))
    scratch = args.keep or Path(tempfile.mkdtemp(prefix="evergreen-loop-"))
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        environment = create_environment(source, scratch.resolve())
        enter(environment)
        with Display(console) as display:
            recording = play(environment, rows, display, start_s, texts=args.texts, wrong_share=args.wrong, limit_s=args.limit_s)
        measured = quality(recording.messages, lambda texts: predict_offline(source / PACKAGE, texts))
        chart.draw(recording.messages, recording.events, measured, OUT / "loop.png")
        leftover = len(leftover_processes(environment))
        outcome = evaluate(recording, measured, whole_s=time.monotonic() - start_s, leftover=leftover)
        path = write(outcome, recording, OUT)
    except KeyboardInterrupt:
        console.print(styled("stopped; all processes have ended", "yellow"))
        raise SystemExit(130) from None
    finally:
        if not args.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    console.print(table(outcome))
    for note in outcome.notes:
        console.print_lines(note)
    console.print(f"→ {path}, {OUT / 'loop.png'}")
    sys.exit(0 if outcome.is_kept else 1)


if __name__ == "__main__":
    run_stage(main)
