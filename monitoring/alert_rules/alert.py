"""An alerting rule: what is wrong, by how much, what happens next and where to look; and its form for Prometheus."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pipeline.params import Alerts

Severity = Literal["critical", "warning", "info", "none"]
Area = Literal["drift", "quality", "serving", "watch", "resources", "retrain", "release", "switch"]
JOBS = {
    "gateway": "evergreen-gateway",
    "triton": "evergreen-triton",
    "monitor": "evergreen-monitor",
    "receiver": "evergreen-receiver",
    "controller": "evergreen-controller",
    "flywheel": "evergreen-flywheel",
    "inbox": "evergreen-inbox",
    "console": "evergreen-console",
}
NOTHING_AUTOMATIC = "Nothing happens automatically"
SHARE, DURATION = "{{ $value | humanizePercentage }}", "{{ $value | humanizeDuration }}"  # templates of the alert's value
COUNT, DECIMAL = "{{ $value | printf `%.0f` }}", "{{ $value | printf `%.2f` }}"


class Rule(NamedTuple):
    """An alerting rule. Texts are Prometheus templates; `keep_s` is how long the alert fires on after its condition ended."""

    name: str
    area: Area
    severity: Severity
    expr: str
    summary: str
    description: str
    next_step: str  # what happens if nobody acts
    look: str  # the command to look closer
    for_s: int = 0
    keep_s: int = 0
    annotations: tuple[tuple[str, str], ...] = ()  # further ones


def render_rule(rule: Rule, alerts: Alerts) -> dict[str, Any]:
    """Return the rule as a Prometheus rule file and the Operator's PrometheusRule hold it."""
    timing = {"for": f"{rule.for_s}s"} if rule.for_s else {}
    if rule.keep_s:
        timing["keep_firing_for"] = f"{rule.keep_s}s"
    return {
        "alert": rule.name,
        "expr": rule.expr,
        **timing,
        "labels": {"severity": rule.severity, "area": rule.area},
        "annotations": {
            "summary": rule.summary,
            "description": rule.description,
            "next": rule.next_step,
            "look": rule.look,
            "runbook_url": f"{alerts.runbooks}#{rule.name.lower()}",
            **dict(rule.annotations),
        },
    }


def last_known(selector: str, alerts: Alerts, by: Iterable[str] = ()) -> str:
    """Return a query for the last known value of each series within `bridge_s`.

    A failed scrape marks its series stale at once, and an alert on them would resolve although nobody knows that it is over.
    """
    grouping = f" by ({', '.join(by)})" if by else ""
    return f"max{grouping} (last_over_time({selector}[{alerts.bridge_s}s]))"


def for_watched_version(condition: str, alerts: Alerts) -> str:
    """Restrict a condition to the version that the monitor watches now; after a promotion the old version's values are void."""
    version = last_known("evergreen_monitored_version", alerts)
    return f'({condition})\nand on (version) count_values("version", {version})'


def query_template(query: str, labels: tuple[str, ...], form: str) -> str:
    """Return a template that queries Prometheus when the alert is sent; each `%s` of the query takes the next label's value."""
    values = "".join(f" $labels.{label}" for label in labels)
    return (
        f"{{{{ with printf `{query}`{values} | query }}}}{{{{ . | first | value | {form} }}}}{{{{ else }}}}unknown{{{{ end }}}}"
    )
