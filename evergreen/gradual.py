"""The commands of gradual releases: promote, and release pause, resume, abort and plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evergreen.inspection import out
from evergreen.releasing import Force, announce, insist_on_version, swap_to
from evergreen.retraining import follow, print_end
from pipeline.errors import InputError, ToolError
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from monitoring.release.runs import Wish
    from pipeline.params import Params
    from serving.release.plan.room_plan import RoomPlan

app = typer.Typer(no_args_is_help=True, help="Pause, resume or end the gradual release that runs; plan the next one.")


def promote(
    version: Annotated[int | None, typer.Argument(help="published version; default: the challenger")] = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="make it champion now, without shadow and canary")] = False,
    why: Annotated[str, typer.Option(help="the reason, which the journal keeps")] = "a person asked for it",
    force: Force = False,
) -> None:
    """Begin the gradual release of a published version, and follow it to its end; Ctrl-C leaves its shares as they are.

    Refused, unless forced, as `publish N` is. Where a controller of this home runs, that one does the work.
    """
    from monitoring.retrain import request
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.release.publish import release_of, released_version, require_published

    home, params = find_home(), load_params()
    champion, challenger = release_of(home, "champion"), release_of(home, "challenger")
    if champion is None:
        raise ToolError("promote", "no version is published yet", "make repro")
    number = version if version is not None else challenger.version if challenger else None
    if number is None:
        raise InputError(str(home), "there is no challenger", "publish one, or name a version: .venv/bin/evergreen promote N")
    require_published(home, number)
    wanted = released_version(home, number)
    if wanted and wanted.version != champion.version:
        command = f"promote {number}{' --at-once' if at_once else ''}"
        insist_on_version(wanted, champion, home, command, force=force)
    if at_once:
        swap_to(number, home)
        return
    print_end(follow(lambda stopping: request.release(params, home, number, why, announce, stopping)))


@app.command()
def pause() -> None:
    """Keep the shares as they are: no step up, no promotion; a broken guardrail still rolls back."""
    _wish("pause", "is paused")


@app.command()
def resume() -> None:
    """Let a paused release go on."""
    _wish("none", "goes on")


@app.command()
def abort() -> None:
    """End the release: the champion gets everything at the next look, and the challenger retires."""
    _wish("abort", "ends at the next look; the champion stays")


@app.command()
def plan(
    disagreement: Annotated[float, typer.Option(help="share of texts on which the versions differ")] = 0.1,
    accuracy_lost: Annotated[float, typer.Option(help="accuracy that a bad version loses")] = 0.02,
    requests_per_s: Annotated[float, typer.Option(help="texts a second that callers send")] = 1.0,
) -> None:
    """Say what the next release will need under these params, what it will catch, and whether this machine has room for it."""
    from monitoring.release.verdicts.planner import plan_release
    from pipeline.home import find_home
    from pipeline.params import load_params

    params = load_params()
    try:
        expected = plan_release(
            params.release, disagreement=disagreement, accuracy_lost=accuracy_lost, requests_per_s=requests_per_s
        )
    except ValueError as error:
        raise InputError("--accuracy-lost", str(error), "give less, or a higher --disagreement") from None
    table = Table("of a release", "expected", title="by the release's own rules, simulated", title_justify="left")
    rows = {
        f"a version {accuracy_lost:.1%} worse is refused in the shadow": f"{expected.power:.1%}",
        "an equally good version is refused": f"{expected.false_refusals:.1%}",
        "… without proof, for the estimate alone (counted above)": f"{expected.refused_on_estimate:.1%}",
        f"undecided when the {params.release.labels} labels are spent": f"{expected.undecided:.1%}",
        "labels until the verdict on an equally good version": str(expected.labels),
        "labels until the verdict on the worse one": str(expected.labels_of_worse),
        "texts compared in the shadow": str(expected.shadow_texts),
        "requests until the canary's last step ends": str(expected.canary_requests),
        f"time until it is champion, at {requests_per_s:g}/s, without waiting for people": describe_seconds(expected.seconds),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
    _print_room(params, find_home(), requests_per_s)


def describe_seconds(seconds: float) -> str:
    """Return a duration for people."""
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _print_room(params: "Params", home: Path, requests_per_s: float) -> None:
    """Print how a challenger fits beside the champion on this machine; nothing without a champion."""
    from serving.release.manifest import version_folder
    from serving.release.plan.room import measure_room
    from serving.release.plan.room_plan import plan_room
    from serving.release.publish import champion

    release = champion(home)
    if release is None:
        out.print("no version is published: room for a second one is not measured")
        return
    room = measure_room(params, home, release.version, version_folder(home, release.version))
    deadline_s = params.gateway.deadline_ms / 1000
    _print_plan(plan_room(room, params.release, requests_per_s=requests_per_s, deadline_s=deadline_s))


def _print_plan(chosen: "RoomPlan") -> None:
    out.print("on this machine:", styled(chosen.how.replace("_", " "), "bold"))
    for sentence in chosen.why:
        out.print(f"  {sentence}")
    out.print(
        f"  downtime {chosen.downtime_s:.1f} s when it becomes champion, {chosen.downtime_back_s:.1f} s when it is rolled back;"
        f" copies of {chosen.shadow_share:.0%} of texts, at most {chosen.largest_share:.0%} of units"
    )


def _wish(wish: "Wish", becomes: str) -> None:
    """Store what a person wishes of the running release; the controller follows it at its next look."""
    from monitoring.release.runs import running_run, set_wish
    from pipeline.home import find_home
    from state.database import open_state

    with open_state(find_home()) as engine, engine.begin() as connection:
        run = running_run(connection)
        if run is None:
            raise InputError("release", "no release is running", "begin one: .venv/bin/evergreen promote N")
        if not set_wish(connection, run.retrain_id, wish):
            raise InputError("release", "a person ends it already", "see it: .venv/bin/evergreen status")
    out.print(f"the release of version {run.version} {becomes}")
