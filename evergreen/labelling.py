"""The commands about labels: who gave them and who counts, batches for labellers, withdrawal, and disputes."""

import getpass
import random
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from evergreen.inspection import out
from pipeline.errors import InputError
from pipeline.output.plain_text import plain_json, print_line
from pipeline.output.shares import percent
from pipeline.output.terminal import joined, styled

if TYPE_CHECKING:
    import sqlalchemy as sa

    from monitoring.labels.book import LabelBook
    from monitoring.labels.disputes import DisputedLabel
    from monitoring.labels.labellers import LabellerScore
    from pipeline.params import Labels

labels = typer.Typer(help="Show the labellers and whether their labels count; withdraw labels; draw texts to label.")
disputes = typer.Typer(help="Show the labels that contradict test rows or that the audit suspects, and settle them.")
By = Annotated[str, typer.Option(help="name of the labeller, as `evergreen labels` shows it")]
Format = Literal["label-studio", "argilla"]
Since = Annotated[
    datetime | None, typer.Option(help="only labels received since then, UTC", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"])
]


@labels.callback(invoke_without_command=True)
def show_labels(context: typer.Context) -> None:
    """Show each labeller's labels, accuracy on texts whose label is known, and whether the labels count."""
    if context.invoked_subcommand is not None:
        return
    from pipeline.params import load_params

    settings, book = load_params().labels, _read_book()
    if not book.counts:
        out.print("nobody has given a label yet; docs/retraining.md shows how")
        return
    table = Table("labeller", "labels", "withdrawn", "right on known texts", "95 % interval", "counts", box=None)
    for name, (in_force, withdrawn) in sorted(book.counts.items()):
        score = book.scores.get(name)
        interval = score.total.interval() if score else None
        table.add_row(
            name,
            str(in_force),
            str(withdrawn),
            f"{score.total.right} of {score.total.controls}" if score else "none met",
            f"{percent(interval.lower)} to {percent(interval.upper)}" if interval else "",
            _standing(score, settings),
        )
    out.print(table)
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(book.opinions.skipped.items()))
    is_open = book.contradicted_rows()
    out.print(f"{len(book.opinions.texts)} texts with labels that count{f'; left out: {skipped}' if skipped else ''}")
    if conflicts := sum(len({given.label for given in text.opinions}) > 1 for text in book.opinions.texts.values()):
        out.print(f"people disagree on {conflicts} texts; to see which labels count: .venv/bin/evergreen labels conflicts")
    if is_open:
        out.print(f"{is_open} labels contradict test rows; to see them: .venv/bin/evergreen disputes")


@labels.command("conflicts")
def show_conflicts() -> None:
    """List the texts on which people disagree, who gives which label, and the label that the next data set has."""
    from monitoring.console.model.served_labels import served_labels
    from monitoring.labels.conflicts import find_conflicts
    from pipeline.home import find_home
    from pipeline.params import load_params

    book = _read_book()
    found = find_conflicts(book.opinions, book.merge(served_labels(find_home()).labels, load_params()).rows)
    for conflict in found:
        out.print(f"{conflict.text_id}  “{conflict.text}”")
        for label, people in conflict.given.items():
            counts = "  counts" if label == conflict.counts else ""
            out.print(f"  {label} by {', '.join(people)}{counts}")
    out.print(f"{len(found)} texts; the label of most people counts, in a tie the one of the corpus or the earlier one")


@labels.command()
def revoke(by: By, since: Since = None) -> None:
    """Withdraw all labels of a labeller; the next retrain is made without them."""
    from monitoring.labels.entries import withdraw

    changed = _change_labels(withdraw, by, since)
    out.print(f"{changed} labels by {by} are withdrawn; the monitor forgets them in its next cycle")
    out.print(f"to put them back: .venv/bin/evergreen labels restore --by {shlex.quote(by)}")
    out.print('to make a model without them: .venv/bin/evergreen retrain --why "labels were withdrawn"')


@labels.command()
def restore(by: By, since: Since = None) -> None:
    """Put withdrawn labels of a labeller in force again."""
    from monitoring.labels.entries import restore as put_back

    out.print(f"{_change_labels(put_back, by, since)} labels by {by} are in force again")


@labels.command("next")
def next_batch(
    size: Annotated[int, typer.Option(help="number of texts", min=1)] = 20,
    seed: Annotated[int | None, typer.Option(help="for a reproducible draw")] = None,
) -> None:
    """Print texts to label, one JSON object a line: the front of the queue, mixed with texts whose label is known.

    Before the first round of the flywheel the queue is the answers of the last day.
    """
    from monitoring.flywheel.queue.batch import GoldTexts, Turn
    from monitoring.flywheel.queue.batch import next_batch as next_of_queue
    from monitoring.flywheel.queue.progress import read_progress
    from monitoring.flywheel.queue.round import read_round
    from monitoring.labels.controls import BatchSources, make_batch
    from monitoring.labels.entries import labelled_ids
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.release.publish import champion
    from state.database import open_state

    home, params = find_home(), load_params()
    made, release = read_round(home), champion(home)
    version = release.version if release else 1
    gold = {row.text: row.label for row in _read_book().trusted.corpus.values()}
    with open_state(home) as engine, engine.begin() as connection:
        labelled, progress = labelled_ids(connection), read_progress(connection)
    rng, now = random.Random(seed), time.time()  # noqa: S311
    if made is None:
        tasks = make_batch(params, home, BatchSources(labelled, gold, version), size, rng, now)
        lines = [{"id": task.id, "text": task.text} for task in tasks]
    else:
        turn = Turn(made, progress, params)
        batch = next_of_queue(turn, GoldTexts(gold, version), home, labeller=None, size=size, rng=rng, now=now)
        lines = [{"id": row.prediction_id, "text": row.text} for row in batch.candidates]
    for line in lines:
        print_line(plain_json(line))


@labels.command("export")
def export_queue(
    file: Annotated[Path, typer.Argument(help="JSON file to write")],
    format: Annotated[Format, typer.Option(help="label-studio or argilla")],
    labelled: Annotated[
        bool, typer.Option("--labelled", help="the texts that have labels, with them; else those without")
    ] = False,
) -> None:
    """Write the queue for Label Studio or Argilla, with the model's labels as suggestions."""
    from monitoring.flywheel.exchange.files import texts_to_exchange, write_texts_for
    from monitoring.flywheel.queue.round import read_round
    from pipeline.home import find_home
    from serving.release.label_change import labels_of
    from serving.release.manifest import version_folder
    from serving.release.publish import champion
    from state.database import open_state

    home = find_home()
    made, release = read_round(home), champion(home)
    if made is None:
        raise InputError("evergreen labels export", "there is no round yet", "make one: .venv/bin/evergreen clusters --refresh")
    with open_state(home) as engine, engine.connect() as connection:
        texts = texts_to_exchange(connection, made, is_labelled=labelled)
    known = sorted(labels_of(version_folder(home, release.version) if release else None))
    for path in write_texts_for(format, texts, file, known):
        out.print(f"{len(texts)} texts → {path}" if path == file else f"labelling interface → {path}")
    out.print(f"to bring labels back: .venv/bin/evergreen labels import {shlex.quote(str(file))} --by NAME")


@labels.command("import")
def import_labels(
    file: Annotated[Path, typer.Argument(help="JSON export of Label Studio or Argilla, of texts that `labels export` wrote")],
    by: Annotated[str, typer.Option(help="whose labels these are; with tokens, the name of EVERGREEN_TOKEN counts")],
) -> None:
    """Send the labels of a file to the gateway, in the name of the person who gave them. Bad rows cost no good ones."""
    from monitoring.flywheel.exchange.files import read_labels, send_labels
    from pipeline.params import load_params
    from serving.access.bearer import bearer_header
    from serving.gateway_client import http_sender
    from serving.processes.addresses import base_url, reach_host

    gateway = load_params().gateway
    returned = read_labels(file, by)
    sent = send_labels(
        returned.labels, http_sender(base_url(reach_host("gateway", gateway.host), gateway.port), bearer_header()), by
    )
    bad = sorted([*returned.bad, *sent.bad])
    for row in bad:
        out.print(f"{file}: row {row.row}: {row.key}: {row.what}")
    out.print(f"{sent.stored} labels stored, {sent.proposed} of them proposals for new ones")
    out.print(f"{returned.unlabelled} rows without a label, {returned.known} labels that were known before")
    if bad:
        rows = "1 row was" if len(bad) == 1 else f"{len(bad)} rows were"
        raise InputError(
            str(file), f"{rows} left out, as listed above", "correct them and import the file again: labels count once"
        )


@disputes.callback(invoke_without_command=True)
def show_disputes(
    context: typer.Context, everything: Annotated[bool, typer.Option("--all", help="settled ones too")] = False
) -> None:
    """Show the open disputes: test rows to which people give another label, and labels that the audit suspects."""
    if context.invoked_subcommand is not None:
        return
    listed = _read_book().disputes()
    is_open = [dispute for dispute in listed if dispute.settlement is None]
    for dispute in listed if everything else is_open:
        _print_dispute(dispute)
    out.print(f"{len(is_open)} open, {len(listed) - len(is_open)} settled")
    if is_open:
        out.print("to settle one: .venv/bin/evergreen disputes settle TEXT_ID --keep (or --change)")


@disputes.command("settle")
def settle_dispute(
    text_id: Annotated[str, typer.Argument(help="id of the text, as `evergreen disputes` shows it")],
    keep: Annotated[bool, typer.Option("--keep", help="the row's label is right")] = False,
    change: Annotated[bool, typer.Option("--change", help="the disputed label is right: the next data set has it")] = False,
    label: Annotated[str | None, typer.Option(help="the disputed label, where a text has several")] = None,
) -> None:
    """Settle a dispute under your user name; the settlement is stored with its date."""
    from monitoring.labels.disputes import open_disputes, settle
    from pipeline.home import find_home
    from state.database import open_state

    if keep == change:
        raise InputError("evergreen disputes settle", "say how it is settled", "add either --keep or --change")
    matches = open_disputes(_read_book().disputes(), text_id, label, "keep" if keep else "change")
    with open_state(find_home()) as engine, engine.begin() as connection:
        for dispute in matches:
            settle(connection, dispute, "keep" if keep else "change", getpass.getuser()[:64])
    for dispute in matches:
        kept, dropped = (dispute.protected_label, dispute.label)[:: 1 if keep else -1]
        out.print(f"settled: “{dispute.text}” is {kept}, not {dropped}")
    if change:
        out.print("the next retrain has the new label; until then the model is measured with the old one")


def _read_book() -> "LabelBook":
    from monitoring.labels.book import read_current_book
    from pipeline.home import find_home
    from pipeline.params import load_params

    return read_current_book(load_params(), find_home())


def _standing(score: "LabellerScore | None", settings: "Labels") -> str | Text:
    if score is None or score.total.controls < settings.min_control_answers:
        return f"yes: fewer than {settings.min_control_answers} known texts"
    if score.is_counted(settings):
        return styled("yes", "green")
    if mistaken := score.mistaken_classes(settings):
        return joined(styled("no", "red"), f": surely below {settings.min_class_accuracy:.0%} on {', '.join(mistaken)}")
    return joined(styled("no", "red"), f": surely below {settings.min_control_accuracy:.0%}")


def _change_labels(change: Callable[["sa.Connection", str, datetime | None], int], by: str, since: datetime | None) -> int:
    from pipeline.home import find_home
    from state.database import open_state

    with open_state(find_home()) as engine, engine.begin() as connection:
        changed = change(connection, by, since.replace(tzinfo=UTC) if since else None)
    if not changed:
        raise InputError(by, "there is no such label of this labeller", ".venv/bin/evergreen labels lists the labellers")
    return changed


def _print_dispute(dispute: "DisputedLabel") -> None:
    settled = dispute.settlement
    out.print(f"{dispute.text_id}  “{dispute.text}”")
    first, last = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}" for at in (dispute.first_at, dispute.last_at))
    people = ", ".join(dispute.labellers)
    out.print(f"  is {dispute.protected_label}, called {dispute.label} by {people}, {first} to {last}")
    if settled:
        day = f"{datetime.fromtimestamp(settled.settled_at, UTC):%Y-%m-%d}"
        out.print(f"  settled by {settled.settled_by} on {day}: {settled.verdict}")
