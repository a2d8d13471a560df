"""The commands that choose texts for people: clusters of texts that are worth a label, and labels that are probably wrong."""

import getpass
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evergreen.inspection import out
from pipeline.errors import InputError
from pipeline.output.plain_text import plain_json, print_line
from pipeline.output.shares import percent

if TYPE_CHECKING:
    from monitoring.flywheel.label_audit import Embed, FitAndPredict, Floats, Indices
    from monitoring.flywheel.queue.round import Cluster, Round
    from pipeline.params import Params

clusters = typer.Typer(help="Show groups of texts that are worth a label; make them now; propose a new intent for one.")
SHOWN = 20
Id = Annotated[int, typer.Argument(help="id of the cluster, as `evergreen clusters` shows it", metavar="ID")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line")]


@clusters.callback(invoke_without_command=True)
def show_clusters(
    context: typer.Context,
    refresh: Annotated[bool, typer.Option("--refresh", help="make a round now")] = False,
    everything: Annotated[bool, typer.Option("--all", help="all of them, not the first 20")] = False,
    json: Json = False,
) -> None:
    """Show the clusters of the last round, the most worthwhile first."""
    if context.invoked_subcommand is not None:
        return
    made = _make_round() if refresh else _read_round()
    texts = {row.text_id: row.text for row in made.candidates}
    shown = made.clusters if everything or json else made.clusters[:SHOWN]
    if json:
        for cluster in shown:
            fields = cluster._asdict() | {"examples": [texts[id] for id in cluster.central]}
            print_line(plain_json({name: value for name, value in fields.items() if name != "centroid"}))
        return
    table = Table("id", "words", "texts", "disagreement", "rank", "example", box=None)
    for cluster in shown:
        table.add_row(
            str(cluster.id),
            ", ".join(cluster.words) or "none",
            str(cluster.size),
            _interval(cluster),
            f"{cluster.rank_score:.2f}",
            f"“{texts[cluster.central[0]]}”",
        )
    out.print(table)
    at = f"{datetime.fromtimestamp(made.made_at, UTC):%Y-%m-%d %H:%M} UTC"
    more = len(made.clusters) - len(shown)
    out.print(f"round of {at}: {len(made.candidates)} texts of version {made.version} in {len(made.clusters)} clusters")
    if more:
        out.print(f"{more} more clusters: .venv/bin/evergreen clusters --all")
    out.print("the texts of a cluster: .venv/bin/evergreen clusters show ID")


@clusters.command("show")
def show_cluster(id: Id, json: Json = False) -> None:
    """List the texts of a cluster in the order of the queue."""
    made = _read_round()
    cluster = _find(made, id)
    members = [row for row in made.candidates if row.cluster == id]
    if json:
        for row in members:
            print_line(plain_json(row._asdict()))
        return
    out.print(f"cluster {id}: {', '.join(cluster.words) or 'no words'}; disagreement {_interval(cluster)}")
    table = Table("text", "champion", "sure", "second model", "why", "times", box=None)
    for row in members:
        second = row.second_label or "not asked"
        table.add_row(row.text, row.label, percent(row.confidence), second, ", ".join(row.reasons), str(row.repeats))
    out.print(table)


@clusters.command("propose")
def propose(id: Id, name: Annotated[str, typer.Argument(help="name of the new intent", metavar="NAME")]) -> None:
    """Propose a new intent for a cluster: the queue offers the name to whoever labels its texts."""
    from monitoring.flywheel.proposals import propose_intent
    from pipeline.home import find_home
    from pipeline.params import load_params
    from state.database import open_state

    _find(_read_round(), id)
    settings = load_params().retrain
    with open_state(find_home()) as engine, engine.begin() as connection:
        stored = propose_intent(connection, id, name, getpass.getuser(), time.time())
    out.print(f"the queue offers {stored} for the texts of cluster {id}; people label them there")
    enough = f"{settings.proposal_people} people have given it to {settings.proposal_texts} texts"
    out.print(f"it becomes a class of the next model once {enough}")


def audit(
    everything: Annotated[bool, typer.Option("--all", help="show all suspects, not the first 20")] = False,
) -> None:
    """Find labels of data.source and data.test that are probably wrong; `evergreen disputes` settles them."""
    from monitoring.flywheel.label_audit import audit_corpus
    from monitoring.labels.book import read_current_book
    from monitoring.labels.suspects import write_suspects
    from pipeline.home import find_home
    from pipeline.params import load_params

    params, home = load_params(), find_home()
    corpus = read_current_book(params, home).trusted.corpus
    embed, fit = _frozen_model(params)
    suspects = audit_corpus(corpus, embed, fit, params.flywheel, time.time())
    write_suspects(home, suspects)
    table = Table("text", "label", "probability", "more likely", "probability ", box=None)
    for row in suspects if everything else suspects[:SHOWN]:
        likely = percent(row.likely_probability)
        table.add_row(f"“{row.text}”", row.label, percent(row.label_probability), row.likely, likely)
    if suspects:
        out.print(table)
    out.print(f"{len(suspects)} suspect labels among {len(corpus)} rows, by a model that has not seen the row")
    if len(suspects) == params.flywheel.budget:
        out.print("there may be more: flywheel.budget limits how many people are asked about")
    if suspects:
        out.print("nothing has changed; to see them with their ids: .venv/bin/evergreen disputes")
        out.print("to settle one: .venv/bin/evergreen disputes settle TEXT_ID --keep (or --change)")


def _read_round() -> "Round":
    from monitoring.flywheel.queue.round import read_round
    from pipeline.home import find_home

    home = find_home()
    made = read_round(home)
    if made is None:
        raise InputError(str(home), "no round has been made yet", "make one: .venv/bin/evergreen clusters --refresh")
    return made


def _make_round() -> "Round":
    from monitoring.flywheel.make_round import make_round
    from pipeline.home import find_home
    from pipeline.params import load_params

    return make_round(find_home(), load_params(), time.time(), announce=out.print)


def _find(made: "Round", id: int) -> "Cluster":
    for cluster in made.clusters:
        if cluster.id == id:
            return cluster
    raise InputError(f"cluster {id}", "the last round has no such cluster", ".venv/bin/evergreen clusters --all lists them")


def _interval(cluster: "Cluster") -> str:
    if (cluster.disagreement_lower, cluster.disagreement_upper) == (-1.0, 1.0):
        return "unknown"
    return f"{percent(cluster.disagreement)} ({percent(cluster.disagreement_lower)} to {percent(cluster.disagreement_upper)})"


def _frozen_model(params: "Params") -> "tuple[Embed, FitAndPredict]":
    """Return embedding and logistic regression as the control of every release has them."""
    import numpy as np

    from pipeline.network.frozen_encoder import fit_control, frozen_embeddings

    def embed(texts: Sequence[str]) -> "Floats":
        return frozen_embeddings(texts, params.model, params.evaluate.batch_size, "embed")

    def fit(rows: "Floats", labels: "Indices", asked: "Floats") -> "Floats":
        fitted = fit_control(rows, labels, params.evaluate.control_c)
        return np.asarray(fitted.predict_proba(asked))

    return embed, fit
