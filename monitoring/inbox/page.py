"""The inbox page: renders cards as HTML."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment

from monitoring.inbox.incidents import Card
from monitoring.inbox.messages import Switch, overdue_s
from monitoring.pages.navigation import Link
from monitoring.pages.rendering import page_environment
from monitoring.retrain_activity import RETRAIN_NOW
from pipeline.params import Alerts

FILES = Path(__file__).parent / "files"


def render_page(
    cards: Sequence[Card],
    switch: Switch | None,
    started_at: float,
    now: float,
    alerts: Alerts,
    retraining: str,
    links: Sequence[Link] = (),
) -> str:
    """Render the page as HTML; `retraining` says whether alerts start retrains."""
    late_s = overdue_s(switch, started_at, now, alerts)
    firing = sum(card.status != "over" for card in cards)
    template = _environment().get_template("inbox.html")
    return template.render(
        cards=cards, firing=firing, switch=switch, late_s=late_s, now=now, alerts=alerts,
        retraining=retraining, retrain_now=RETRAIN_NOW, links=links,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    return page_environment(FILES)
