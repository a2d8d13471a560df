"""The command that looks for wrong labels in the data: it stores suspects, and people settle them as disputes."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evergreen.inspection import out
from pipeline.output.shares import percent

if TYPE_CHECKING:
    from monitoring.flywheel.label_audit import Embed, FitAndPredict, Floats, Indices
    from pipeline.params import Params

SHOWN = 20


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
