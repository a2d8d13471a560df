"""The commands that change what serves: publish, rollback and route. They say what callers will notice."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.inspection import out
from pipeline.home import DVC_LOCK, PACKAGE
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from monitoring.retrain.gate.promotion import Promotion
    from serving.release.release_table import Release

NOT_JUDGED = "the gate has not judged this model; to compare its package first: .venv/bin/evergreen gate"
Force = Annotated[bool, typer.Option("--force", help="although labels change, or the gate refused it or has not judged it")]


def announce(text: str) -> None:
    """Print a step of a command that takes a while; its further lines are indented."""
    first, *rest = text.split("\n")
    out.print(styled("·", "green"), first)
    for line in rest:
        out.print("   ", line)


def publish(
    version: Annotated[int | None, typer.Argument(help="published version to promote; default: the packaged model")] = None,
    first: Annotated[bool, typer.Option("--first", help="only when there is no champion yet")] = False,
    force: Force = False,
) -> None:
    """Publish the packaged model as a new version, or make a published version champion.

    Refused, unless forced, when its labels differ from the champion's, or when the gate refused it; to become champion, the gate
    must have judged it.
    """
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.release import publish as publishing
    from serving.release.manifest import package_digest
    from serving.release.offline import outdated_note

    home = find_home()
    if version is not None:
        _promote(version, home, force=force)
        return
    champion = publishing.champion(home)
    digest = package_digest(PACKAGE)
    if note := outdated_note(PACKAGE):
        out.print(styled("!", "yellow"), note)
    is_other = champion is not None and digest != champion.content_digest
    if champion and first and is_other:
        out.print(f"version {champion.version} stays champion; to make this package its challenger: .venv/bin/evergreen publish")
        return
    is_judged = True
    if champion and is_other:
        promotion = _examine(PACKAGE, digest, champion, home)
        _insist(promotion, promotion.objections(), str(PACKAGE), "publish", force=force)
        is_judged = promotion.recorded is not None
        if not is_judged:  # a challenger answers nobody yet
            out.print(styled("!", "yellow"), NOT_JUDGED)
    published = publishing.publish(PACKAGE, DVC_LOCK, load_params().publish.name, home)
    number, role = published.release.version, published.release.role
    verb = "was published before as" if published.already_published else "is now"
    out.print(f"this package {verb} version {number}, {role} → {published.folder}")
    if role == "challenger":
        first_step = "" if force or is_judged else ".venv/bin/evergreen gate (judge it), then "
        promote = f".venv/bin/evergreen publish {number}{' --force' if force else ''} (make it champion)"
        out.print(f"next: {first_step}{promote}, or .venv/bin/evergreen route --shadow 1")


def rollback() -> None:
    """Make the previous champion champion again."""
    from pipeline.errors import InputError
    from pipeline.home import find_home
    from serving.release.publish import release_of

    home = find_home()
    previous, champion = release_of(home, "previous"), release_of(home, "champion")
    if previous is None or champion is None:
        raise InputError(str(home), "there is no previous champion", "name a version: .venv/bin/evergreen publish N")
    for sentence in _examine_version(previous, champion, home).label_sentences():
        out.print(styled("!", "yellow"), sentence)
    _take_back(champion.version, home)


def route(
    weight: Annotated[float, typer.Option(help="share of units that the challenger answers, 0 to 1")] = 0.0,
    shadow: Annotated[float, typer.Option(help="share of texts copied to the challenger, 0 to 1")] = 0.0,
    force: Force = False,
) -> None:
    """Set the challenger's share of the traffic and of copies; without options the champion gets everything.

    A share of the traffic is refused, unless forced, when the challenger's labels differ, or when the gate refused it or has not
    judged it.
    """
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.release.live import swap
    from serving.release.publish import release_of

    home = find_home()
    _refuse_during_release(home)
    champion, challenger = release_of(home, "champion"), release_of(home, "challenger")
    if weight and champion and challenger:
        command = f"route --weight {weight:g}{f' --shadow {shadow:g}' if shadow else ''}"
        insist_on_version(challenger, champion, home, command, force=force)
    routes = swap.route(load_params(), home, challenger_weight=weight, shadow_share=shadow, announce=announce)
    out.print(f"champion {routes.champion}, challenger {routes.challenger}: {weight:.0%} of units, {shadow:.0%} of texts copied")


def _promote(version: int, home: Path, *, force: bool) -> None:
    """Make a version champion; raise `RefusedError` for what speaks against it, unless forced."""
    from serving.release.publish import release_of, released_version, require_published

    require_published(home, version)  # before the imports of a swap, which take longer than the question
    champion, release = release_of(home, "champion"), released_version(home, version)
    if champion and release and champion.version != version:
        insist_on_version(release, champion, home, f"publish {version}", force=force)
    swap_to(version, home)


def insist_on_version(release: "Release", champion: "Release", home: Path, command: str, *, force: bool) -> None:
    """Insist on a version that is to answer callers: the gate must have judged it, unless it was champion before this one."""
    promotion = _examine_version(release, champion, home)
    is_unknown = promotion.recorded is None and release.role != "previous"
    objections = [*promotion.objections(), *([NOT_JUDGED] if is_unknown else [])]
    _insist(promotion, objections, f"version {release.version}", command, force=force)


def _examine_version(release: "Release", champion: "Release", home: Path) -> "Promotion":
    from serving.release.manifest import version_folder

    return _examine(version_folder(home, release.version), release.content_digest, champion, home)


def _examine(folder: Path, digest: str, champion: "Release", home: Path) -> "Promotion":
    from monitoring.retrain.gate.promotion import examine_promotion
    from pipeline.params import load_params

    return examine_promotion(folder, digest, champion, home, load_params())


def _insist(promotion: "Promotion", objections: list[str], what: str, command: str, *, force: bool) -> None:
    """Raise `RefusedError` with everything that speaks against a promotion; with `force`, print it and go on."""
    from pipeline.errors import RefusedError

    if objections and not force:
        reasons = "\n".join([f"to replace version {promotion.champion} with it takes --force:", *objections])
        do = f"tell your callers, then insist: .venv/bin/evergreen {command} --force; version {promotion.champion} keeps serving"
        raise RefusedError(what, reasons, do)
    for objection in objections:
        out.print(styled("!", "yellow"), objection)


def _refuse_during_release(home: Path) -> None:
    """Raise `InputError` while a gradual release runs, which sets the shares itself."""
    from monitoring.release.runs import running_run
    from pipeline.errors import InputError
    from state.database import open_state, read_only

    with open_state(home) as engine, read_only(engine) as connection:
        run = running_run(connection)
    if run is not None:
        do = ".venv/bin/evergreen release pause, or release abort"
        raise InputError(f"version {run.version}", "its release runs, and sets the shares at every look", do)


def swap_to(version: int, home: Path) -> None:
    """Make a version champion now."""
    from pipeline.params import load_params
    from serving.release.live.swap import swap

    swapped = swap(version, load_params(), home, announce)
    if not swapped.was_served:
        out.print("no Triton answers; the version is served from the next start: make serve")
    if swapped.previous not in (None, version):
        out.print(f"version {swapped.previous} stays available as previous; to return to it: .venv/bin/evergreen rollback")


def _take_back(version: int, home: Path) -> None:
    from pipeline.params import load_params
    from serving.release.live.roll_back import roll_back

    done = roll_back(version, load_params(), home, announce)
    out.print(f"version {version} is retired; to make it champion again: .venv/bin/evergreen publish {version}")
    if done.left:
        out.print(styled("!", "yellow"), f"not done yet: {', '.join(done.left)}; the next publish, route or rollback does it")
