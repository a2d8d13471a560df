"""Alertmanager's configuration, rendered from params.yaml: receivers, routes and inhibitions.

It loads on Alertmanager 0.25 and on current versions, so keys that only newer versions know (`url_file`, `timeout`) are not used.
Secrets are named as files and never appear in it: Slack's URL, the mail server's password, tokens. Other webhooks' URLs have to
stand in a configuration of 0.25, which logs them, so the inbox sends those messages (`monitoring/inbox/relay.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from monitoring.alert_rules.incident import AREAS
from monitoring.alert_rules.monitoring import SWITCH
from monitoring.alert_rules.render import HEADER
from monitoring.channels.settings import RELAYED, Channel, read_channels, secret_file
from pipeline.errors import InputError
from pipeline.params import Alerts
from serving.processes.addresses import base_url, reach_host, shown_host

TEMPLATES = "messages.tmpl"
RELAY_TOKEN = "relay.token"  # noqa: S105 (the name of its file)
TEST_ALERT = "EvergreenTest"
TEST_RECEIVER = "test-"  # begins the name of the receiver of one channel
SYMPTOMS = ("LatencyHigh", "VersionSlow", "ErrorsHigh", "Refusing", "QueueFull", "TritonNotReady")
RETRAIN_AREAS = 'area=~"drift|quality"'
INCIDENT = [f'area=~"{"|".join(AREAS)}"', 'version!=""']
TITLE = """\
{{ define "evergreen.title" }}{{ $worst := "info" }}{{ $areas := "" }}{{ range .Alerts }}\
{{ if or (eq .Labels.severity "critical") (and (eq .Labels.severity "warning") (ne $worst "critical")) }}\
{{ $worst = .Labels.severity }}{{ end }}{{ $areas = printf "%s %s" $areas .Labels.area }}{{ end }}\
{{ if eq (printf "%s" .GroupLabels.alertname) "TEST_ALERT" }}TEST{{ else if eq .Status "firing" }}{{ $worst | toUpper }}\
{{ else }}no longer reported{{ end }}: \
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
    """Render alertmanager.yml for `alerts/` of a home; raises `InputError` when nobody would receive alerts."""
    return HEADER + yaml.safe_dump(config(alerts, folder, read_channels(folder)), sort_keys=False, width=10_000)


def config(alerts: Alerts, folder: Path, channels: Sequence[Channel] = ()) -> dict[str, Any]:
    """Return the configuration as a tree."""
    receivers = [{"name": "people", **people_receiver(alerts, folder, channels)}, {"name": "switch", **switch_receiver(alerts)}]
    receivers.append({"name": "nobody"})
    if alerts.controller_url != "none":
        receivers.append({"name": "controller", **controller_receiver(alerts, folder)})
    for channel in channels:
        key, integration = integration_of(channel, alerts, folder)
        receivers.append({"name": f"{TEST_RECEIVER}{channel.name}", key: [integration | {"send_resolved": False}]})
    return {
        "global": {"resolve_timeout": "5m"},  # Prometheus itself reports when an alert ends
        "templates": [TEMPLATES],
        "route": routes(alerts, channels),
        "inhibit_rules": inhibitions(),
        "receivers": receivers,
    }


def routes(alerts: Alerts, channels: Sequence[Channel] = ()) -> dict[str, Any]:
    """Route the switch and test messages to their receivers, others to people, drift and accuracy to the controller as well."""
    special: list[dict[str, Any]] = [
        {
            "matchers": [f'alertname="{SWITCH}"'],
            "receiver": "switch",
            "group_by": ["alertname"],
            "group_wait": "1s",
            "group_interval": f"{-(-alerts.switch_every_s // 2)}s",  # half the repeat interval, so that no repeat is missed
            "repeat_interval": f"{alerts.switch_every_s}s",
        },
        route_of_tests(channels),
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


def route_of_tests(channels: Sequence[Channel]) -> dict[str, Any]:
    """Route a test message to its channel alone, at once; failed attempts are repeated for `group_interval` only.

    One whose channel has been removed meanwhile reaches nobody.
    """
    channel_routes = [
        {"matchers": [f'channel="{channel.name}"'], "receiver": f"{TEST_RECEIVER}{channel.name}"} for channel in channels
    ]
    return {
        "matchers": [f'alertname="{TEST_ALERT}"'],
        "receiver": "nobody",
        "group_by": ["alertname", "channel", "test"],
        "group_wait": "0s",
        "group_interval": "10s",
        "repeat_interval": "24h",
        "routes": channel_routes,
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


def people_receiver(alerts: Alerts, folder: Path, channels: Sequence[Channel] = ()) -> dict[str, Any]:
    """Return the inbox and all channels; raises `InputError` when there is none of either."""
    integrations: dict[str, list[dict[str, Any]]] = {}
    if alerts.inbox == "here":
        integrations["webhook_configs"] = [{"url": inbox_url(alerts), "send_resolved": True, "max_alerts": 0}]
    for channel in channels:
        key, integration = integration_of(channel, alerts, folder)
        integrations.setdefault(key, []).append(integration)
    if not integrations:
        problem = "nobody would receive alerts: the inbox is none, and no channel is set up"
        raise InputError("params.yaml, alerts.inbox", problem, "set it to here, or add a channel: evergreen alerts --help")
    return integrations


def integration_of(channel: Channel, alerts: Alerts, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the key of a receiver under which a channel stands, and its settings."""
    if channel.kind in RELAYED:
        return "webhook_configs", relay_config(channel, alerts, folder)
    if channel.kind == "slack":
        return "slack_configs", slack_config(channel, alerts, folder)
    return "email_configs", email_config(channel, folder)


def relay_config(channel: Channel, alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Return the inbox's relay to a webhook; raises `InputError` without an inbox."""
    if alerts.inbox != "here":
        problem = f"the inbox sends the messages of channel {channel.name}, and it is none"
        raise InputError("params.yaml, alerts.inbox", problem, f"set it to here, or: evergreen alerts remove {channel.name}")
    token = {"type": "Bearer", "credentials_file": str(folder / RELAY_TOKEN)}
    url = f"{inbox_base(alerts)}/relay/{channel.name}"
    return {"url": url, "send_resolved": True, "max_alerts": 0, "http_config": {"authorization": token}}


def slack_config(channel: Channel, alerts: Alerts, folder: Path) -> dict[str, Any]:
    """Return an incoming Slack webhook; its URL is a secret in a file. Without a room, Slack posts to the webhook's own."""
    return {
        "api_url_file": str(secret_file(folder, channel)),
        **({"channel": channel.room} if channel.room else {}),
        "send_resolved": True,
        "username": "Evergreen",
        "title": '{{ template "evergreen.title" . }}',
        "text": '{{ template "evergreen.text" . }}',
        "title_link": inbox_page(alerts),
    }


def email_config(channel: Channel, folder: Path) -> dict[str, Any]:
    """Return a plain-text mail; port 465 means TLS from the start, another port STARTTLS."""
    account = {"auth_username": channel.user, "auth_password_file": str(secret_file(folder, channel))} if channel.user else {}
    return {
        "to": channel.shown,
        "from": channel.sender,
        "smarthost": channel.server,
        **account,
        "require_tls": channel.tls,
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
    return f"{inbox_base(alerts)}/alerts"


def inbox_base(alerts: Alerts) -> str:
    """Return the address at which programs reach the inbox."""
    return base_url(reach_host("inbox", alerts.host), alerts.inbox_port)


def inbox_page(alerts: Alerts) -> str:
    """Return the address of the inbox in messages to people."""
    return f"{base_url(shown_host('inbox', alerts.host), alerts.inbox_port)}/"


def message_templates(alerts: Alerts) -> str:
    """Return titles and texts for Slack and mail: one text for the alerts of a group, which have one cause.

    A resolved alert is "no longer reported": Alertmanager also resolves alerts when Prometheus fell silent, and a sent message
    cannot be taken back.
    """
    return TITLE.replace("TEST_ALERT", TEST_ALERT) + TEXT.replace("INBOX", inbox_page(alerts))
