"""Routes, receivers and templates, checked by amtool on the rendered configuration."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from monitoring.alert_rules.alertmanager import INCIDENT, TEMPLATES, config, config_file, inhibitions, message_templates
from monitoring.alert_rules.render import all_rules
from monitoring.channels.settings import Channel, put_channel
from monitoring.local.tools import find_tool
from pipeline.errors import InputError
from pipeline.params import Alerts, Params

pytestmark = pytest.mark.usefixtures("tools")

CONTROLLER = {"controller_url": "http://127.0.0.1:9999/v1/alerts"}
NO_CONTROLLER = {"controller_url": "none"}
ALL_ON = CONTROLLER | {"switch_url": "https://switch.example.org/ping"}
SECRET = "https://hooks.slack.example/secret"
SLACK = Channel(name="slack", kind="slack", shown="hooks.slack.example")
MAIL = Channel(
    name="mail", kind="email", shown="people@example.org", sender="x@example.org", server="smtp.example.org:587", user="evergreen"
)
CHANNELS = (
    SLACK,
    MAIL,
    SLACK.model_copy(update={"name": "second-slack", "room": "#on-call"}),
    Channel(name="teams", kind="teams", shown="teams.example.org"),
    Channel(name="hook", kind="webhook", shown="hooks.example.org"),
)


def write_config(alerts: Alerts, folder: Path, channels: Sequence[Channel] = ()) -> Path:
    for channel in channels:
        put_channel(folder, channel, SECRET)
    (folder / "alertmanager.yml").write_text(config_file(alerts, folder))
    (folder / TEMPLATES).write_text(message_templates(alerts))
    return folder / "alertmanager.yml"


def amtool(tools: Path, *arguments: str) -> str:
    result = subprocess.run([str(find_tool(tools, "amtool")), *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("changed", "channels"),
    [({}, ()), (NO_CONTROLLER, ()), (CONTROLLER, ()), (ALL_ON, CHANNELS), ({"inbox": "none"}, (SLACK, MAIL))],
)
def test_amtool_accepts_the_configuration_and_its_templates(
    changed: dict[str, str], channels: tuple[Channel, ...], tools: Path, alerts: Alerts, tmp_path: Path
) -> None:
    output = amtool(tools, "check-config", str(write_config(alerts.model_copy(update=changed), tmp_path, channels)))
    assert "SUCCESS" in output
    assert "1 templates" in output


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ("alertname=EvergreenDrift area=drift severity=warning version=3 signal=input_sketch", "controller,people"),
        ("alertname=EvergreenWindowDrift area=drift severity=warning version=3 signal=input_sketch", "controller,people"),
        ("alertname=EvergreenAccuracyHarm area=quality severity=critical version=3", "controller,people"),
        ("alertname=EvergreenLatencyHigh area=serving severity=critical", "people"),
        ("alertname=EvergreenMonitorStale area=watch severity=critical", "people"),
        ("alertname=EvergreenWatchdog area=switch severity=none", "switch"),
        ("alertname=EvergreenRetrainFailed area=retrain severity=warning step=gate", "people"),
        ("alertname=Unknown", "people"),
        *((f"alertname=EvergreenTest area=test channel={channel.name}", f"test-{channel.name}") for channel in CHANNELS),
        ("alertname=EvergreenTest area=drift severity=critical version=3 channel=slack", "test-slack"),
        ("alertname=EvergreenTest area=test channel=removed", "nobody"),
    ],
)
def test_an_alert_reaches_its_receivers(labels: str, receivers: str, tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    path = write_config(alerts.model_copy(update=CONTROLLER), tmp_path, CHANNELS)
    reached = amtool(tools, "config", "routes", "test", f"--config.file={path}", *labels.split())
    assert reached.split() == [receivers]


def test_without_a_controller_only_people_receive_alerts(tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    alerts = alerts.model_copy(update=NO_CONTROLLER)
    path = str(write_config(alerts, tmp_path))
    labels = ("alertname=EvergreenDrift", "area=drift")
    assert amtool(tools, "config", "routes", "test", f"--config.file={path}", *labels).split() == ["people"]
    assert [receiver["name"] for receiver in config(alerts, Path("/etc/x"))["receivers"]] == ["people", "switch", "nobody"]


def test_by_default_the_local_controller_receives_alerts(alerts: Alerts) -> None:
    (webhook,) = config(alerts, Path("/etc/x"))["receivers"][3]["webhook_configs"]
    assert webhook["url"] == "http://127.0.0.1:8096/v1/alerts"
    assert webhook["http_config"]["authorization"]["credentials_file"] == "/etc/x/controller.token"


def test_a_wrong_expected_route_is_noticed(tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    command = (str(find_tool(tools, "amtool")), "config", "routes", "test", f"--config.file={write_config(alerts, tmp_path)}")
    result = subprocess.run([*command, "--verify.receivers=switch", "alertname=EvergreenDrift"], capture_output=True)
    assert result.returncode == 1


def test_by_default_people_are_reached_by_the_inbox_alone(alerts: Alerts) -> None:
    people = config(alerts, Path("/etc/x"))["receivers"][0]
    assert set(people) == {"name", "webhook_configs"}
    assert [webhook["url"] for webhook in people["webhook_configs"]] == ["http://127.0.0.1:8090/alerts"]


def test_secrets_stay_in_files(alerts: Alerts, tmp_path: Path) -> None:
    text = write_config(alerts.model_copy(update=ALL_ON), tmp_path, CHANNELS).read_text()
    assert SECRET not in text
    assert "hooks.example.org" not in text
    people, _switch, _nobody, controller, *_ = yaml.safe_load(text)["receivers"]
    token = {"type": "Bearer", "credentials_file": str(tmp_path / "controller.token")}
    assert controller["webhook_configs"][0]["http_config"] == {"authorization": token}
    assert [slack["api_url_file"] for slack in people["slack_configs"]] == [
        str(tmp_path / "secrets" / name) for name in ("second-slack", "slack")
    ]
    assert people["email_configs"][0]["auth_password_file"] == str(tmp_path / "secrets/mail")
    assert people["email_configs"][0]["require_tls"] is True
    relayed = people["webhook_configs"][1:]
    assert [webhook["url"] for webhook in relayed] == [f"http://127.0.0.1:8090/relay/{name}" for name in ("hook", "teams")]
    assert {webhook["http_config"]["authorization"]["credentials_file"] for webhook in relayed} == {str(tmp_path / "relay.token")}


def test_a_configuration_without_receivers_is_an_error(alerts: Alerts) -> None:
    with pytest.raises(InputError, match="nobody would receive alerts"):
        config(alerts.model_copy(update={"inbox": "none"}), Path("/etc/x"))


def test_a_channel_that_the_inbox_sends_needs_the_inbox(alerts: Alerts) -> None:
    with pytest.raises(InputError, match="the inbox sends the messages of channel teams"):
        config(alerts.model_copy(update={"inbox": "none"}), Path("/etc/x"), CHANNELS[3:4])


def render(template: str, tools: Path, alerts: Alerts, folder: Path, data: Path | None = None) -> str:
    (folder / TEMPLATES).write_text(message_templates(alerts))
    options = {"template.glob": str(folder / TEMPLATES), "template.text": f'{{{{ template "evergreen.{template}" . }}}}'}
    options |= {"template.data": str(data)} if data else {}
    return amtool(tools, "template", "render", *[f"--{name}={value}" for name, value in options.items()]).strip()


@pytest.mark.parametrize("template", ["title", "text"])
def test_texts_for_slack_and_mail_render(template: str, tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    output = render(template, tools, alerts, tmp_path)
    assert output
    assert "error" not in output.lower()


def test_alerts_of_one_cause_are_one_message_with_the_newest_decision(tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    def posted(name: str, area: str, severity: str, status: str = "firing", **texts: str) -> dict[str, object]:
        labels = {"alertname": name, "area": area, "severity": severity, "version": "3"}
        stated = {"sure": "sure of drift", "cost": "what it costs", "decided": "an older decision", "look": "look"}
        times = {"startsAt": "2026-09-21T14:03:20Z", "endsAt": "2026-09-21T15:03:20Z"}
        return {"status": status, "labels": labels, "annotations": stated | texts, **times}

    data = {
        "status": "firing",
        "groupLabels": {"version": "3"},
        "alerts": [
            posted("EvergreenAccuracyHarm", "quality", "critical", summary="Accuracy has fallen", sure="sure of harm"),
            posted("EvergreenDrift", "drift", "warning", summary="The meaning has moved"),
            posted("EvergreenDrift", "drift", "warning", summary="The length has moved"),
            posted("EvergreenDrift", "drift", "warning", "resolved", summary="The mix has moved"),
            posted(
                "EvergreenRetrainRunning", "retrain", "info", summary="A retrain runs", decided="A retrain runs.", next="Wait"
            ),
        ],
    }
    (tmp_path / "data.json").write_text(json.dumps(data))
    assert render("title", tools, alerts, tmp_path, data=tmp_path / "data.json") == "CRITICAL: Answers of version 3 got worse"
    text = render("text", tools, alerts, tmp_path, data=tmp_path / "data.json")
    assert text.count("2026-09-21 14:03:20 UTC") == 5
    for once in (
        "What happened:",
        "How sure: sure of drift",
        "How sure: sure of harm",
        "What it costs:",
        "Next: Wait",
        "Runbook:",
    ):
        assert text.count(once) == 1, once
    assert "What was decided: A retrain runs.\n" in text
    assert "older" not in text
    assert "The mix has moved, since 2026-09-21 14:03:20 UTC. No longer reported since 2026-09-21 15:03:20 UTC" in text


def test_alerts_of_a_version_share_a_message_and_others_do_not(alerts: Alerts) -> None:
    *_, incident, people = config(alerts, Path("/etc/x"), CHANNELS)["route"]["routes"]
    assert incident == {"matchers": INCIDENT, "receiver": "people", "group_by": ["version"]}
    assert people == {"receiver": "people"}


def test_no_key_of_newer_versions_is_used(alerts: Alerts) -> None:
    text = yaml.safe_dump(config(alerts.model_copy(update=ALL_ON), Path("/etc/x"), CHANNELS))
    for key in (" url_file:", "timeout: 1", "payload:", "http_headers:", "mute_time_intervals:"):
        assert key not in text


def test_drift_neither_suppresses_nor_is_suppressed(params: Params) -> None:
    names = {rule.name for rules in all_rules(params).values() for rule in rules}
    matchers = [text for rule in inhibitions() for key in ("source_matchers", "target_matchers") for text in rule[key]]
    assert not [text for text in matchers if "Drift" in text or "Accuracy" in text or "Watchdog" in text]
    mentioned = {name for text in matchers if text.startswith("alertname") for name in text.split('"')[1].split("|")}
    assert mentioned <= names


def test_the_switch_arrives_before_it_counts_as_overdue(alerts: Alerts) -> None:
    route = config(alerts, Path("/etc/x"))["route"]["routes"][0]
    seconds = {key: int(str(route[key]).rstrip("s")) for key in ("group_interval", "repeat_interval")}
    assert alerts.resend_s + alerts.evaluate_s + sum(seconds.values()) < alerts.switch_overdue_s


def test_a_switch_limit_below_a_healthy_heartbeat_is_refused(alerts: Alerts) -> None:
    with pytest.raises(ValueError, match="healthy heartbeat"):
        Alerts.model_validate({**alerts.model_dump(), "switch_overdue_s": 255})


def test_a_wait_longer_than_alertmanager_remembers_is_refused(alerts: Alerts) -> None:
    with pytest.raises(ValueError, match="before Alertmanager forgets it"):
        Alerts.model_validate({**alerts.model_dump(), "for_s": 241})
