"""The command `retrain`: a retrain now, or the end of one. Imports what it needs when it runs."""

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.inspection import out
from pipeline.errors import EvergreenError, RefusedError, ToolError
from pipeline.lifetime import end_on_signals
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from monitoring.retrain.request import RequestStatus

INTERRUPTED = 128 + signal.SIGINT


def retrain(
    cancel: Annotated[bool, typer.Option("--cancel", help="end the running retrain; the champion stays")] = False,
    why: Annotated[str, typer.Option(help="the reason, which the journal keeps")] = "a person asked for it",
) -> None:
    """Retrain now, from the commit that is checked out and all labels in force; the gate decides whether the result serves."""
    import threading

    from monitoring.retrain import request
    from pipeline.home import find_home
    from pipeline.params import load_params

    params, home = load_params(), find_home()
    if cancel:
        ended = request.cancel(params, home, "cancelled by a person")
        out.print("no retrain is running" if ended is None else f"retrain {ended} is cancelled; the champion stays")
        return
    stopping = threading.Event()

    def stop(*_signal: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    signal.signal(signal.SIGINT, stop)
    end_on_signals(stop)
    status = request.retrain(params, home, why, lambda text: out.print(styled("·", "green"), text), stopping)
    if not status.is_final:
        out.print(f"stopped; {request.describe_rest(status)}")
        raise SystemExit(INTERRUPTED)
    _print_end(status)


def _print_end(status: "RequestStatus") -> None:
    """Print the end of a retrain; raise the error that it, or its refusal, is."""
    from serving.release.inputs import WHAT_TO_DO

    if status.reason == "no_champion":
        raise ToolError("a retrain", "no version is published yet", "make repro")
    if status.retrain is None:
        what = str(status.facts.get("other_inputs") or status.reason)
        raise RefusedError("a retrain", f"it would not start from what serves: {what}", WHAT_TO_DO)
    row = status.retrain
    name, where = f"retrain {row['id']}", "docs/retraining.md explains it; the champion stays"
    if row["state"] == "refused":
        raise RefusedError(name, str(row["failure"]), where)
    if row["state"] != "done":
        raise EvergreenError(name, f"{row['state']} at step {row['step']}: {row['failure']}", where)
    out.print(styled("✓", "green"), f"{name}: version {row['version_out']} is champion")
