"""Alertmanager's configuration, rendered from params.yaml: who is told of what, how often. Loads on 0.25 and on current versions.

What is secret is named as a file and never stands in it: Slack's URL, the mail server's password, the controller's token. A
relative path starts at the folder of the configuration. What only newer versions know (`url_file`, `timeout`) is not used.
"""

from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules.monitoring import SWITCH
from monitoring.alert_rules.render import HEAD
from pipeline.errors import InputError
from pipeline.params import Alerts

TEMPLATES = "messages.tmpl"
FELT = ("LatencyHigh", "VersionSlow", "ErrorsHigh", "Refusing", "QueueFull", "TritonNotReady")
RETRAINED_ON = 'area=~"drift|quality"'


def config_file(alerts: Alerts, folder: Path) -> str:
    """alertmanager.yml for this folder; raises `InputError` when nobody would be told."""
    return HEAD + yaml.safe_dump(config(alerts, folder), sort_keys=False, width=10_000)


def config(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """The configuration as a tree."""
    receivers = [{"name": "people", **people(alerts, folder)}, {"name": "switch", **switch(alerts)}]
    if alerts.controller_url != "none":
        receivers.append({"name": "controller", **controller(alerts, folder)})
    return {
        "global": {"resolve_timeout": "5m"},  # Prometheus says itself when an alert ends
        "templates": [TEMPLATES],
        "route": routes(alerts),
        "inhibit_rules": inhibitions(),
        "receivers": receivers,
    }


def routes(alerts: Alerts) -> dict[str, Any]:
    """The switch goes its own way; drift and accuracy go to the controller too; all but the switch goes to people."""
    ways: list[dict[str, Any]] = [
        {
            "matchers": [f'alertname="{SWITCH}"'],
            "receiver": "switch",
            "group_by": ["alertname"],
            "group_wait": "1s",
            "group_interval": f"{-(-alerts.switch_every_s // 2)}s",  # twice as often as it is repeated: no turn is missed
            "repeat_interval": f"{alerts.switch_every_s}s",
        }
    ]
    if alerts.controller_url != "none":
        ways.append({"matchers": [RETRAINED_ON], "receiver": "controller", "group_by": ["version"], "continue": True})
    return {
        "receiver": "people",
        "group_by": ["alertname", "version"],
        "group_wait": f"{alerts.group_wait_s}s",
        "group_interval": f"{alerts.group_interval_s}s",
        "repeat_interval": f"{alerts.repeat_s}s",
        "routes": [*ways, {"receiver": "people"}],  # who was told and goes on is not told by the top again
    }


def inhibitions() -> list[dict[str, Any]]:
    """What follows from something else is not told beside it. Drift holds nothing back."""
    felt = "|".join(f"Evergreen{name}" for name in FELT)
    burning = 'alertname=~"EvergreenLatencyHigh|EvergreenErrorsHigh"'
    return [
        {"source_matchers": ['alertname="EvergreenGatewayDown"'], "target_matchers": [f'alertname=~"{felt}"']},
        {
            "source_matchers": ['severity="critical"', burning],
            "target_matchers": ['severity="warning"', burning],
            "equal": ["alertname"],
        },
        {
            "source_matchers": ['alertname="EvergreenMonitorStale"'],
            "target_matchers": ['alertname="EvergreenScrapeMissing"', 'job="evergreen-monitor"'],
        },
    ]


def people(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Everybody whom params name; raises `InputError` when they name nobody."""
    told: dict[str, Any] = {}
    hooks = [inbox_url(alerts)] if alerts.inbox == "here" else []
    hooks += [alerts.webhook_url] if alerts.webhook_url != "none" else []
    if hooks:
        told["webhook_configs"] = [{"url": url, "send_resolved": True, "max_alerts": 0} for url in hooks]
    if alerts.slack_url_file != "none":
        told["slack_configs"] = [slack(alerts, folder)]
    if alerts.email_to != "none":
        told["email_configs"] = [email(alerts, folder)]
    if not told:
        what = "nobody would be told: inbox, webhook_url, slack_url_file and email_to are all none"
        raise InputError("params.yaml, alerts", what, "set one of them")
    return told


def slack(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """An incoming webhook of Slack, whose URL is a secret."""
    return {
        "api_url_file": str(folder / alerts.slack_url_file),
        "channel": f"#{alerts.slack_channel}",
        "send_resolved": True,
        "title": '{{ template "evergreen.title" . }}',
        "text": '{{ template "evergreen.text" . }}',
        "title_link": f"http://{alerts.host}:{alerts.inbox_port}/",
    }


def email(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Plain text, with TLS where the server offers it; a password makes it a must."""
    account = {}
    if alerts.email_user != "none":
        account = {"auth_username": alerts.email_user, "auth_password_file": str(folder / alerts.email_password_file)}
    return {
        "to": alerts.email_to,
        "from": alerts.email_from,
        "smarthost": alerts.email_server,
        **account,
        "require_tls": alerts.email_user != "none",
        "send_resolved": True,
        "headers": {"Subject": '{{ template "evergreen.title" . }}'},
        "text": '{{ template "evergreen.text" . }}',
        "html": "",
    }


def switch(alerts: Alerts) -> dict[str, Any]:
    """Those who listen to the dead man's switch: the inbox, and somebody outside when params name one."""
    urls = [inbox_url(alerts)] if alerts.inbox == "here" else []
    urls += [alerts.switch_url] if alerts.switch_url != "none" else []
    return {"webhook_configs": [{"url": url, "send_resolved": False} for url in urls]} if urls else {}


def controller(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """The retrain controller; it judges each alert by its own status, so it is told of the end too."""
    token = {"type": "Bearer", "credentials_file": str(folder / alerts.controller_token_file)}
    here = f"http://{alerts.host}:{alerts.receiver_port}/v1/alerts"
    url = here if alerts.controller_url == "here" else alerts.controller_url
    hook = {"url": url, "send_resolved": True, "max_alerts": 0, "http_config": {"authorization": token}}
    return {"webhook_configs": [hook]}


def inbox_url(alerts: Alerts) -> str:
    """Where the inbox takes messages."""
    return f"http://{alerts.host}:{alerts.inbox_port}/alerts"


def templates(alerts: Alerts) -> str:
    """Titles and texts for Slack and mail. What ended is "no longer reported": Alertmanager calls it over as well when
    Prometheus fell silent, and a text that was sent cannot be taken back."""
    where = f"http://{alerts.host}:{alerts.inbox_port}/"
    over = '.EndsAt.Format "2006-01-02 15:04:05 MST"'
    return (
        '{{ define "evergreen.title" }}{{ if eq .Status "firing" }}{{ .CommonLabels.severity | toUpper }}'
        "{{ else }}no longer reported{{ end }}: {{ .CommonLabels.alertname }}"
        "{{ with .CommonLabels.version }}, version {{ . }}{{ end }}{{ end }}\n"
        '{{ define "evergreen.text" }}{{ range .Alerts }}{{ .Annotations.summary }}'
        f'{{{{ if eq .Status "resolved" }}}}: no longer reported since {{{{ {over} }}}}. If Prometheus was down then, it may '
        "still be so.{{ end }}\n{{ .Annotations.description }}\n"
        "{{ with .Annotations.loss }}Estimated loss of accuracy: {{ . }}\n{{ end }}"
        "What happens next: {{ .Annotations.next }}\nLook closer: {{ .Annotations.look }}\n"
        f"Runbook: {{{{ .Annotations.runbook_url }}}}\n\n{{{{ end }}}}Words that moved, and texts: {where}{{{{ end }}}}\n"
    )
