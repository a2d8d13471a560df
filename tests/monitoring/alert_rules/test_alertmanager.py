"""Routes, receivers and templates, checked by amtool on the rendered configuration."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring.alert_rules.alertmanager import INCIDENT, TEMPLATES, config, config_file, inhibitions, message_templates
from monitoring.alert_rules.render import all_rules
from monitoring.local.tools import find_tool
from pipeline.errors import InputError
from pipeline.params import Alerts, Params

pytestmark = pytest.mark.usefixtures("tools")

CONTROLLER = {"controller_url": "http://127.0.0.1:9999/v1/alerts"}
NO_CONTROLLER = {"controller_url": "none"}
ALL_ON = CONTROLLER | {
    "webhook_url": "https://hooks.example.org/x",
    "slack_url_file": "slack.url",
    "email_to": "people@example.org",
    "email_user": "evergreen",
    "email_password_file": "email.password",
    "switch_url": "https://switch.example.org/ping",
}


def write_config(alerts: Alerts, folder: Path) -> Path:
    (folder / "alertmanager.yml").write_text(config_file(alerts, folder))
    (folder / TEMPLATES).write_text(message_templates(alerts))
    for name in ("slack.url", "controller.token", "email.password"):
        (folder / name).write_text("https://hooks.slack.example/secret")
    return folder / "alertmanager.yml"


def amtool(tools: Path, *arguments: str) -> str:
    result = subprocess.run([str(find_tool(tools, "amtool")), *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("changed", [{}, NO_CONTROLLER, CONTROLLER, ALL_ON, {"inbox": "none", "slack_url_file": "slack.url"}])
def test_amtool_accepts_the_configuration_and_its_templates(
    changed: dict[str, str], tools: Path, alerts: Alerts, tmp_path: Path
) -> None:
    output = amtool(tools, "check-config", str(write_config(alerts.model_copy(update=changed), tmp_path)))
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
    ],
)
def test_an_alert_reaches_its_receivers(labels: str, receivers: str, tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    path = write_config(alerts.model_copy(update=CONTROLLER), tmp_path)
    amtool(tools, "config", "routes", "test", f"--config.file={path}", f"--verify.receivers={receivers}", *labels.split())


def test_without_a_controller_only_people_receive_alerts(tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    alerts = alerts.model_copy(update=NO_CONTROLLER)
    path = str(write_config(alerts, tmp_path))
    labels = ("alertname=EvergreenDrift", "area=drift")
    amtool(tools, "config", "routes", "test", f"--config.file={path}", "--verify.receivers=people", *labels)
    assert [receiver["name"] for receiver in config(alerts, Path("/etc/x"))["receivers"]] == ["people", "switch"]


def test_by_default_the_local_controller_receives_alerts(alerts: Alerts) -> None:
    (webhook,) = config(alerts, Path("/etc/x"))["receivers"][2]["webhook_configs"]
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
    text = write_config(alerts.model_copy(update=ALL_ON), tmp_path).read_text()
    assert "hooks.slack.example" not in text
    tree = yaml.safe_load(text)
    (webhook,) = tree["receivers"][2]["webhook_configs"]
    assert webhook["http_config"] == {"authorization": {"type": "Bearer", "credentials_file": str(tmp_path / "controller.token")}}
    assert tree["receivers"][0]["slack_configs"][0]["api_url_file"] == str(tmp_path / "slack.url")
    assert tree["receivers"][0]["email_configs"][0]["require_tls"] is True


def test_a_configuration_without_receivers_is_an_error(alerts: Alerts) -> None:
    with pytest.raises(InputError, match="nobody would receive alerts"):
        config(alerts.model_copy(update={"inbox": "none"}), Path("/etc/x"))


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
    *_, incident, people = config(alerts, Path("/etc/x"))["route"]["routes"]
    assert incident == {"matchers": INCIDENT, "receiver": "people", "group_by": ["version"]}
    assert people == {"receiver": "people"}


def test_no_key_of_newer_versions_is_used(alerts: Alerts) -> None:
    text = config_file(alerts.model_copy(update=ALL_ON), Path("/etc/x"))
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
