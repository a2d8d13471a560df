"""Who is told of what, by amtool and the real configuration."""

import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring.alert_rules.alertmanager import TEMPLATES, config, config_file, inhibitions, templates
from monitoring.alert_rules.render import all_rules
from monitoring.local.tools import find
from pipeline.errors import InputError
from pipeline.params import Alerts, Params

pytestmark = pytest.mark.usefixtures("tools")

CONTROLLER = {"controller_url": "http://127.0.0.1:9999/v1/alerts"}
ALONE = {"controller_url": "none"}
ALL_ON = CONTROLLER | {
    "webhook_url": "https://hooks.example.org/x",
    "slack_url_file": "slack.url",
    "email_to": "people@example.org",
    "email_user": "evergreen",
    "email_password_file": "email.password",
    "switch_url": "https://switch.example.org/ping",
}


def written(alerts: Alerts, folder: Path) -> Path:
    (folder / "alertmanager.yml").write_text(config_file(alerts, folder))
    (folder / TEMPLATES).write_text(templates(alerts))
    for name in ("slack.url", "controller.token", "email.password"):
        (folder / name).write_text("https://hooks.slack.example/secret")
    return folder / "alertmanager.yml"


def amtool(tools: Path, *arguments: str) -> str:
    done = subprocess.run([str(find(tools, "amtool")), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("changed", [{}, ALONE, CONTROLLER, ALL_ON, {"inbox": "none", "slack_url_file": "slack.url"}])
def test_amtool_takes_the_configuration_and_its_templates(
    changed: dict[str, str], tools: Path, alerts: Alerts, tmp_path: Path
) -> None:
    said = amtool(tools, "check-config", str(written(alerts.model_copy(update=changed), tmp_path)))
    assert "SUCCESS" in said
    assert "1 templates" in said


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
        ("alertname=SomebodyElses", "people"),
    ],
)
def test_an_alert_takes_its_way(labels: str, receivers: str, tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    path = written(alerts.model_copy(update=CONTROLLER), tmp_path)
    amtool(tools, "config", "routes", "test", f"--config.file={path}", f"--verify.receivers={receivers}", *labels.split())


def test_without_a_controller_only_people_are_told(tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    alone = alerts.model_copy(update=ALONE)
    path = str(written(alone, tmp_path))
    labels = ("alertname=EvergreenDrift", "area=drift")
    amtool(tools, "config", "routes", "test", f"--config.file={path}", "--verify.receivers=people", *labels)
    assert [receiver["name"] for receiver in config(alone, Path("/etc/x"))["receivers"]] == ["people", "switch"]


def test_by_default_the_controller_of_this_machine_is_told(alerts: Alerts) -> None:
    (hook,) = config(alerts, Path("/etc/x"))["receivers"][2]["webhook_configs"]
    assert hook["url"] == "http://127.0.0.1:8096/v1/alerts"
    assert hook["http_config"]["authorization"]["credentials_file"] == "/etc/x/controller.token"


def test_a_wrong_expectation_of_a_way_is_noticed(tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    command = (str(find(tools, "amtool")), "config", "routes", "test", f"--config.file={written(alerts, tmp_path)}")
    done = subprocess.run([*command, "--verify.receivers=switch", "alertname=EvergreenDrift"], capture_output=True)
    assert done.returncode == 1


def test_of_people_by_default_only_the_inbox_is_told(alerts: Alerts) -> None:
    people = config(alerts, Path("/etc/x"))["receivers"][0]
    assert set(people) == {"name", "webhook_configs"}
    assert [hook["url"] for hook in people["webhook_configs"]] == ["http://127.0.0.1:8090/alerts"]


def test_secrets_stand_in_files_alone(alerts: Alerts, tmp_path: Path) -> None:
    text = written(alerts.model_copy(update=ALL_ON), tmp_path).read_text()
    assert "hooks.slack.example" not in text
    tree = yaml.safe_load(text)
    (hook,) = tree["receivers"][2]["webhook_configs"]
    assert hook["http_config"] == {"authorization": {"type": "Bearer", "credentials_file": str(tmp_path / "controller.token")}}
    assert tree["receivers"][0]["slack_configs"][0]["api_url_file"] == str(tmp_path / "slack.url")
    assert tree["receivers"][0]["email_configs"][0]["require_tls"] is True


def test_if_nobody_would_be_told_that_is_an_error(alerts: Alerts) -> None:
    with pytest.raises(InputError, match="nobody would be told"):
        config(alerts.model_copy(update={"inbox": "none"}), Path("/etc/x"))


@pytest.mark.parametrize("template", ["title", "text"])
def test_texts_for_slack_and_mail_are_whole(template: str, tools: Path, alerts: Alerts, tmp_path: Path) -> None:
    (tmp_path / TEMPLATES).write_text(templates(alerts))
    given = {"template.glob": str(tmp_path / TEMPLATES), "template.text": f'{{{{ template "evergreen.{template}" . }}}}'}
    said = amtool(tools, "template", "render", *[f"--{name}={value}" for name, value in given.items()])
    assert said.strip()
    assert "error" not in said.lower()


def test_nothing_that_only_newer_versions_know_is_used(alerts: Alerts) -> None:
    text = config_file(alerts.model_copy(update=ALL_ON), Path("/etc/x"))
    for key in (" url_file:", "timeout: 1", "payload:", "http_headers:", "mute_time_intervals:"):
        assert key not in text


def test_drift_holds_nothing_back_and_nothing_holds_it_back(params: Params) -> None:
    names = {rule.name for rules in all_rules(params).values() for rule in rules}
    told = [text for one in inhibitions() for key in ("source_matchers", "target_matchers") for text in one[key]]
    assert not [text for text in told if "Drift" in text or "Accuracy" in text or "Watchdog" in text]
    mentioned = {name for text in told if text.startswith("alertname") for name in text.split('"')[1].split("|")}
    assert mentioned <= names


def test_the_switch_is_heard_before_it_counts_as_overdue(alerts: Alerts) -> None:
    way = config(alerts, Path("/etc/x"))["route"]["routes"][0]
    seconds = {key: int(str(way[key]).rstrip("s")) for key in ("group_interval", "repeat_interval")}
    assert alerts.resend_s + alerts.evaluate_s + sum(seconds.values()) < alerts.switch_overdue_s


def test_a_switch_that_would_be_overdue_while_all_is_well_is_refused(alerts: Alerts) -> None:
    with pytest.raises(ValueError, match="while all is well"):
        Alerts.model_validate({**alerts.model_dump(), "switch_overdue_s": 255})


def test_a_wait_that_outlasts_alertmanagers_memory_is_refused(alerts: Alerts) -> None:
    with pytest.raises(ValueError, match="before Alertmanager forgets it"):
        Alerts.model_validate({**alerts.model_dump(), "for_s": 241})
