"""A panel of the dashboard in a few lines. Where it goes, and how Grafana keeps it, is not known here."""

from typing import NamedTuple

PERIOD = "$__rate_interval"


class Panel(NamedTuple):
    """One picture: its queries by legend. `limit` is drawn as a line, in the unit of the panel."""

    title: str
    unit: str
    queries: dict[str, str]
    width: int = 8
    kind: str = "timeseries"
    limit: float | None = None
