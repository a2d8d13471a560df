"""Alertmanager's configuration, rendered from params.yaml: receivers, routes and inhibitions.

It loads on Alertmanager 0.25 and on current versions, so keys that only newer versions know (`url_file`, `timeout`) are not used.
Secrets are named as files and never appear in it: Slack's URL, the mail server's password, the controller's token. A relative
path starts at the folder of the configuration.
"""

from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules.incident import AREAS
from monitoring.alert_rules.monitoring import SWITCH
from monitoring.alert_rules.render import HEADER
from pipeline.errors import InputError
from pipeline.params import Alerts
from serving.processes.addresses import base_url, reach_host

TEMPLATES = "messages.tmpl"
SYMPTOMS = ("LatencyHigh", "VersionSlow", "ErrorsHigh", "Refusing", "QueueFull", "TritonNotReady")
RETRAIN_AREAS = 'area=~"drift|quality"'
INCIDENT = [f'area=~"{"|".join(AREAS)}"', 'version!=""']
TITLE = """\
{{ define "evergreen.title" }}{{ $worst := "info" }}{{ $areas := "" }}{{ range .Alerts }}\
{{ if or (eq .Labels.severity "critical") (and (eq .Labels.severity "warning") (ne $worst "critical")) }}\
{{ $worst = .Labels.severity }}{{ end }}{{ $areas = printf "%s %s" $areas .Labels.area }}{{ end }}\
{{ if eq .Status "firing" }}{{ $worst | toUpper }}{{ else }}no longer reported{{ end }}: \
{{ with .GroupLabels.alertname }}{{ . }}{{ with $.GroupLabels.version }}, version {{ . }}{{ end }}\
{{ else }}{{ if match "quality" $areas }}Answers of version {{ .GroupLabels.version }} got worse\
{{ else if match "drift" $areas }}Traffic of version {{ .GroupLabels.version }} has changed\
{{ else }}Retrain of version {{ .GroupLabels.version }}{{ end }}{{ end }}{{ end }}
"""
TEXT = """\
{{ define "evergreen.text" }}{{ $cause := index .Alerts 0 }}{{ $newest := $cause }}{{ $sure := "" }}{{ range .Alerts -}}
{{ if eq .Status "firing" }}{{ if or (ne $cause.Status "firing") (eq $cause.Labels.area "retrain") }}{{ $cause = . }}{{ end }}\
{{ if or (ne $newest.Status "firing") (eq .Labels.area "retrain") }}{{ $newest = . }}{{ end }}{{ end }}{{ end -}}
What happened:
{{ range .Alerts }}- {{ .Annotations.summary }}, since {{ .StartsAt.UTC.Format "2006-01-02 15:04:05 MST" }}.\
{{ if eq .Status "resolved" }} No longer reported since {{ .EndsAt.UTC.Format "2006-01-02 15:04:05 MST" }}; \
if Prometheus was down then, the alert may still be firing.{{ else }} {{ .Annotations.description }}{{ end }}
{{ end }}{{ range .Alerts.Firing }}{{ if and .Annotations.sure (ne .Annotations.sure $sure) }}How sure: {{ .Annotations.sure }}
{{ $sure = .Annotations.sure }}{{ end }}{{ end }}{{ with $cause.Annotations.cost }}What it costs: {{ . }}
{{ end }}{{ with $newest.Annotations.decided }}What was decided: {{ . }}
{{ end }}Next: {{ $newest.Annotations.next }}
Look closer: {{ $cause.Annotations.look }}
Runbook: {{ $cause.Annotations.runbook_url }}
Up to date, with words that moved and example texts: INBOX{{ end }}
"""


def config_file(alerts: Alerts, folder: Path) -> str:
    """Render alertmanager.yml for this folder; raises `InputError` when no receiver for people is configured."""
    return HEADER + yaml.safe_dump(config(alerts, folder), sort_keys=False, width=10_000)


def config(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Return the configuration as a tree."""
    receivers = [{"name": "people", **people_receiver(alerts, folder)}, {"name": "switch", **switch_receiver(alerts)}]
    if alerts.controller_url != "none":
        receivers.append({"name": "controller", **controller_receiver(alerts, folder)})
    return {
        "global": {"resolve_timeout": "5m"},  # Prometheus itself reports when an alert ends
        "templates": [TEMPLATES],
        "route": routes(alerts),
        "inhibit_rules": inhibitions(),
        "receivers": receivers,
    }


def routes(alerts: Alerts) -> dict[str, Any]:
    """Route the switch to its receiver, all other alerts to people, and drift and accuracy to the controller as well."""
    special: list[dict[str, Any]] = [
        {
            "matchers": [f'alertname="{SWITCH}"'],
            "receiver": "switch",
            "group_by": ["alertname"],
            "group_wait": "1s",
            "group_interval": f"{-(-alerts.switch_every_s // 2)}s",  # half the repeat interval, so that no repeat is missed
            "repeat_interval": f"{alerts.switch_every_s}s",
        }
    ]
    if alerts.controller_url != "none":
        special.append({"matchers": [RETRAIN_AREAS], "receiver": "controller", "group_by": ["version"], "continue": True})
    return {
        "receiver": "people",
        "group_by": ["alertname", "version"],
        "group_wait": f"{alerts.group_wait_s}s",
        "group_interval": f"{alerts.group_interval_s}s",
        "repeat_interval": f"{alerts.repeat_s}s",
        "routes": [
            *special,
            {"matchers": INCIDENT, "receiver": "people", "group_by": ["version"]},
            {"receiver": "people"},  # after `continue` the root route does not match again
        ],
    }


def inhibitions() -> list[dict[str, Any]]:
    """Suppress alerts that follow from another alert. Drift suppresses nothing."""
    symptoms = "|".join(f"Evergreen{name}" for name in SYMPTOMS)
    burn_alerts = 'alertname=~"EvergreenLatencyHigh|EvergreenErrorsHigh"'
    return [
        {"source_matchers": ['alertname="EvergreenGatewayDown"'], "target_matchers": [f'alertname=~"{symptoms}"']},
        {
            "source_matchers": ['severity="critical"', burn_alerts],
            "target_matchers": ['severity="warning"', burn_alerts],
            "equal": ["alertname"],
        },
        {
            "source_matchers": ['alertname="EvergreenMonitorStale"'],
            "target_matchers": ['alertname="EvergreenScrapeMissing"', 'job="evergreen-monitor"'],
        },
    ]


def people_receiver(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Return the receivers for people that params configure; raises `InputError` when there is none."""
    channels: dict[str, Any] = {}
    urls = [inbox_url(alerts)] if alerts.inbox == "here" else []
    urls += [alerts.webhook_url] if alerts.webhook_url != "none" else []
    if urls:
        channels["webhook_configs"] = [{"url": url, "send_resolved": True, "max_alerts": 0} for url in urls]
    if alerts.slack_url_file != "none":
        channels["slack_configs"] = [slack_config(alerts, folder)]
    if alerts.email_to != "none":
        channels["email_configs"] = [email_config(alerts, folder)]
    if not channels:
        problem = "nobody would receive alerts: inbox, webhook_url, slack_url_file and email_to are all none"
        raise InputError("params.yaml, alerts", problem, "set one of them")
    return channels


def slack_config(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Return an incoming Slack webhook; its URL is a secret in a file."""
    return {
        "api_url_file": str(folder / alerts.slack_url_file),
        "channel": f"#{alerts.slack_channel}",
        "send_resolved": True,
        "title": '{{ template "evergreen.title" . }}',
        "text": '{{ template "evergreen.text" . }}',
        "title_link": f"http://{alerts.host}:{alerts.inbox_port}/",
    }


def email_config(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Return a plain-text mail; TLS is used if the server offers it, and required with a password."""
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


def switch_receiver(alerts: Alerts) -> dict[str, Any]:
    """Return the receivers of the dead man's switch: the inbox, and an external one if params name it."""
    urls = [inbox_url(alerts)] if alerts.inbox == "here" else []
    urls += [alerts.switch_url] if alerts.switch_url != "none" else []
    return {"webhook_configs": [{"url": url, "send_resolved": False} for url in urls]} if urls else {}


def controller_receiver(alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Return the retrain controller; it reads each alert's own status, so it also receives the end of an alert."""
    token = {"type": "Bearer", "credentials_file": str(folder / alerts.controller_token_file)}
    local_url = f"{base_url(reach_host('receiver', alerts.host), alerts.receiver_port)}/v1/alerts"
    url = local_url if alerts.controller_url == "here" else alerts.controller_url
    webhook = {"url": url, "send_resolved": True, "max_alerts": 0, "http_config": {"authorization": token}}
    return {"webhook_configs": [webhook]}


def inbox_url(alerts: Alerts) -> str:
    """Return the address to which the inbox takes webhooks."""
    return f"http://{alerts.host}:{alerts.inbox_port}/alerts"


def message_templates(alerts: Alerts) -> str:
    """Return titles and texts for Slack and mail: one text for the alerts of a group, which have one cause.

    A resolved alert is "no longer reported": Alertmanager also resolves alerts when Prometheus fell silent, and a sent message
    cannot be taken back.
    """
    return TITLE + TEXT.replace("INBOX", f"http://{alerts.host}:{alerts.inbox_port}/")
