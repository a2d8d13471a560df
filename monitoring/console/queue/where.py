"""Addresses of the page Label: where a person labels, and which page comes next."""

from typing import NamedTuple
from urllib.parse import quote, urlencode

from monitoring.console.login.forms import Form

PATH = "/label"
VERIFY = "verify"


class Where(NamedTuple):
    """Where a person labels: in all the queue or in one cluster, every text or only those to verify."""

    cluster: int | None = None
    mode: str = ""

    @classmethod
    def of(cls, cluster: str, mode: str) -> "Where":
        """Return the place that a query or a form names; anything unknown is the whole queue."""
        number = cluster[:9]
        return cls(int(number) if number.isascii() and number.isdigit() else None, VERIFY if mode == VERIFY else "")

    @classmethod
    def of_form(cls, form: Form) -> "Where":
        """Return the place that a form carries."""
        return cls.of(form.text("cluster"), form.text("mode"))

    @property
    def query(self) -> str:
        """Return the place as the query of an address."""
        fields = {"cluster": self.cluster, "mode": self.mode or None}
        named = {name: value for name, value in fields.items() if value is not None}
        return f"?{urlencode(named)}" if named else ""

    @property
    def path(self) -> str:
        """Return the page around this place."""
        return PATH if self.cluster is None else self.cluster_path

    @property
    def next_path(self) -> str:
        """Return the address that leads to the next open text."""
        return f"{PATH}/next{self.query}"

    @property
    def cluster_path(self) -> str:
        """Return the page of the cluster."""
        return f"{PATH}/cluster/{self.cluster}"

    def text_path(self, prediction_id: str) -> str:
        """Return the page of one text."""
        return f"{PATH}/text/{quote(prediction_id, safe='')}{self.query}"
