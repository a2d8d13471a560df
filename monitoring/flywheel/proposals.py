"""Names that people propose for the intent of a cluster: the queue offers them as choices. They are no labels."""

from collections import defaultdict

import sqlalchemy as sa

from pipeline.data.records import MAX_LABEL_CHARS
from pipeline.errors import InputError
from pipeline.runtime.text import clean
from state.tables import intent_proposals


def is_usable_name(name: str) -> bool:
    """Return whether a name can be a label: 1 to `MAX_LABEL_CHARS` visible characters."""
    return 0 < len(name) <= MAX_LABEL_CHARS and name.isprintable()


def propose_intent(connection: sa.Connection, cluster: int, label: str, proposed_by: str, at: float) -> str:
    """Store a name for the intent of a cluster, once, and return it as it is stored; raises `InputError` for no usable name."""
    name = clean(label)
    if not is_usable_name(name):
        raise InputError(
            "the name of the intent", f"it has no readable character or more than {MAX_LABEL_CHARS}", "choose another"
        )
    c = intent_proposals.c
    known = sa.select(c.id).where(c.cluster == cluster, c.label == name)
    if connection.execute(known).first() is None:
        row = {"cluster": cluster, "label": name, "proposed_by": proposed_by[:64], "at": at}
        connection.execute(intent_proposals.insert(), row)
    return name


def read_proposals(connection: sa.Connection) -> dict[int, list[str]]:
    """Return the proposed names of each cluster, the first one first."""
    names: dict[int, list[str]] = defaultdict(list)
    c = intent_proposals.c
    for cluster, label in connection.execute(sa.select(c.cluster, c.label).order_by(c.id)):
        names[cluster].append(label)
    return dict(names)
