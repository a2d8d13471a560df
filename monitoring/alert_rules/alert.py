"""One alert as a person wants it: what is wrong, by how much, what happens next, where to look. And its form for Prometheus."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pipeline.params import Alerts

Severity = Literal["critical", "warning", "info", "none"]
Area = Literal["drift", "quality", "serving", "watch", "resources", "retrain", "switch"]
JOBS = {
    "gateway": "evergreen-gateway",
    "triton": "evergreen-triton",
    "monitor": "evergreen-monitor",
    "receiver": "evergreen-receiver",
    "controller": "evergreen-controller",
}
BY_A_PERSON = "Nothing happens by itself"
SHARE, DURATION = "{{ $value | humanizePercentage }}", "{{ $value | humanizeDuration }}"  # the alert's value, in its text
COUNT, DECIMAL = "{{ $value | printf `%.0f` }}", "{{ $value | printf `%.2f` }}"


class Rule(NamedTuple):
    """An alerting rule. Texts are templates of Prometheus; `keep_s` is how long it stays after its condition ended."""

    name: str
    area: Area
    severity: Severity
    expr: str
    summary: str
    description: str
    then: str  # what happens next
    look: str  # the command to look closer
    for_s: int = 0
    keep_s: int = 0
    more: tuple[tuple[str, str], ...] = ()  # annotations


def rendered(rule: Rule, alerts: Alerts) -> dict[str, Any]:
    """As Prometheus' rule files and the Operator's PrometheusRule hold it."""
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
            "next": rule.then,
            "look": rule.look,
            "runbook_url": f"{alerts.runbooks}#{rule.name.lower()}",
            **dict(rule.more),
        },
    }


def held(selector: str, alerts: Alerts, by: Iterable[str] = ()) -> str:
    """The last value known of each series, however long ago within `bridge_s`.

    A scrape that fails marks its series stale at once, and an alert on them would resolve although nobody knows that it is over.
    """
    grouping = f" by ({', '.join(by)})" if by else ""
    return f"max{grouping} (last_over_time({selector}[{alerts.bridge_s}s]))"


def of_the_watched_version(condition: str, alerts: Alerts) -> str:
    """The condition, for the version that the monitor watches now: after a promotion the old one's last values say nothing."""
    version = held("evergreen_monitored_version", alerts)
    return f'({condition})\nand on (version) count_values("version", {version})'


def looked_up(query: str, names: tuple[str, ...], form: str) -> str:
    """A template that asks Prometheus when the alert is told; each `%s` of the query is the label of the next name."""
    labels = "".join(f" $labels.{name}" for name in names)
    return (
        f"{{{{ with printf `{query}`{labels} | query }}}}{{{{ . | first | value | {form} }}}}{{{{ else }}}}unknown{{{{ end }}}}"
    )
