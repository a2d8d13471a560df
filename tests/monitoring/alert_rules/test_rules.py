"""The rules under promtool: each alert fires, stays silent, ends, and keeps its state through missing data."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen.cli import app
from monitoring.alert_rules.render import all_rules, rule_file, rule_groups
from monitoring.local.tools import find_tool
from pipeline.params import Params
from tests.conftest import ROOT
from tests.monitoring.alert_rules.cases import DECISION, DRIFT, MONITORING, QUALITY, RETRAIN, Case
from tests.monitoring.alert_rules.release_cases import RELEASES
from tests.monitoring.alert_rules.serving_cases import ABSTENTIONS, CAPACITY, LATENCY_AND_ERRORS, RESOURCES

pytestmark = pytest.mark.usefixtures("tools")

CASES = [*DRIFT, *QUALITY, *LATENCY_AND_ERRORS, *ABSTENTIONS, *CAPACITY, *RESOURCES, *RETRAIN, *RELEASES, *MONITORING]


def promtool(tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(find_tool(tools, "promtool")), *arguments], capture_output=True, text=True)


def test_promtool_accepts_the_rules(tools: Path, params: Params, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rule_file(params))
    result = promtool(tools, "check", "rules", "--lint-fatal", str(tmp_path / "rules.yaml"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{sum(map(len, all_rules(params).values()))} rules found" in result.stdout


BY_ALERT = {alert: [case for case in CASES if case.alert == alert] for alert in dict.fromkeys(case.alert for case in CASES)}


@pytest.mark.parametrize("alert", BY_ALERT)
def test_an_alert_fires_when_it_should_and_not_before(alert: str, tools: Path, params: Params, tmp_path: Path) -> None:
    result = run_cases(tools, params, tmp_path, *BY_ALERT[alert])
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_wrong_expectation_is_noticed(tools: Path, params: Params, tmp_path: Path) -> None:
    case = CASES[0]
    assert run_cases(tools, params, tmp_path, case._replace(fires={4: case.fires[5]})).returncode == 1


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not(params: Params) -> None:
    names = {rule.name for rules in all_rules(params).values() for rule in rules}
    assert {case.alert for case in CASES if any(case.fires.values())} == names
    assert {case.alert for case in CASES if not all(case.fires.values())} == names - {"EvergreenWatchdog"}


def run_cases(tools: Path, params: Params, folder: Path, *cases: Case, texts: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `promtool test rules` on cases of one alert; promtool compares texts exactly, so most cases run without them."""
    alert = cases[0].alert
    one_hour = params.alerts.model_copy(update={"bridge_s": 3600, "window_patience_s": 3600})
    rules = rules_of(rule_groups(params.model_copy(update={"alerts": one_hour})), alert)
    tests = [promtool_test(case, [rule["labels"] for rule in rules]) for case in cases]
    for rule in rules:
        rule["annotations"] = rule["annotations"] if texts else {}
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": rules}]}))
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}))
    return promtool(tools, "test", "rules", str(folder / "test.yaml"))


def promtool_test(case: Case, labels: list[dict[str, str]]) -> dict[str, Any]:
    """Return a case in promtool's form."""
    expected = [
        {
            "eval_time": f"{minute}m",
            "alertname": case.alert,
            "exp_alerts": [{"exp_labels": all_labels(firing, labels)} for firing in instances],
        }
        for minute, instances in case.fires.items()
    ]
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"interval": "1m", "input_series": series, "alert_rule_test": expected}


def rules_of(groups: list[dict[str, Any]], alert: str) -> list[dict[str, Any]]:
    return [rule for group in groups for rule in group["rules"] if rule["alert"] == alert]


def all_labels(expected: dict[str, str], rules: list[dict[str, str]]) -> dict[str, str]:
    """Return a case's labels with those of its rule; the severity selects between rules of the same name."""
    (rule,) = [labels for labels in rules if expected.get("severity", labels["severity"]) == labels["severity"]]
    return rule | expected


FACTS = {
    'evergreen_false_alarms_per_week{signal="input_sketch"}': "0.00714x200",
    'evergreen_drift_effect_size{version="3",signal="input_sketch"}': "0.41x200",
    'evergreen_drift_estimated_share{version="3"}': "0.37x200",
    'evergreen_accuracy_estimate_ratio{version="3",bound="estimate"}': "0.83x200",
    'evergreen_accuracy_estimate_ratio{version="3",bound="lower"}': "0.8x200",
    'evergreen_accuracy_estimate_ratio{version="3",bound="upper"}': "0.86x200",
    'evergreen_accuracy_labelled_ratio{version="3",bound="estimate"}': "0.85x200",
    'evergreen_accuracy_labelled_ratio{version="3",bound="lower"}': "0.8x200",
    'evergreen_accuracy_reference_ratio{version="3"}': "0.94x200",
    'evergreen_drift_log_e_threshold{signal="input_sketch"}': "9.2x200",
    'evergreen_drift_statistic_threshold{version="3",signal="input_sketch"}': "0.0128x200",
    'evergreen_false_alarms_per_week{signal="window"}': "0.05x200",
    'evergreen_accuracy_labels{version="3"}': "60x200",
    DECISION % "running": "1x200",
}
FIRING = {case.alert: case for case in reversed(CASES) if any(case.fires.values())}


@pytest.mark.parametrize("alert", FIRING)
def test_the_texts_of_an_alert_are_complete(alert: str, tools: Path, params: Params, tmp_path: Path) -> None:
    texts = texts_of(FIRING[alert], tools, params, tmp_path)
    assert "error expanding" not in texts
    assert "unknown" not in texts
    for annotation in ("summary", "description", "next", "look", "runbook_url"):
        assert f'{annotation}="' in texts


INCIDENT = ["EvergreenDrift", "EvergreenWindowDrift", *dict.fromkeys(case.alert for case in QUALITY)]


@pytest.mark.parametrize("alert", INCIDENT)
def test_every_alert_of_an_incident_says_how_sure_what_it_costs_and_what_was_decided(
    alert: str, tools: Path, params: Params, tmp_path: Path
) -> None:
    texts = texts_of(FIRING[alert], tools, params, tmp_path)
    assert 'decided="A retrain runs."' in texts
    assert 'next="Follow it: status"' in texts
    assert 'sure="' in texts
    assert 'cost="In the last full window accuracy is estimated, without labels, at 83% (80% to ' in texts
    assert "On the reference it was 94%; a fall by more than 2.0% is shown." in texts


def test_drift_states_the_evidence_and_how_rarely_that_is_a_false_alarm(tools: Path, params: Params, tmp_path: Path) -> None:
    texts = texts_of(FIRING["EvergreenDrift"], tools, params, tmp_path)
    assert 'summary="The meaning of the texts has moved away from the reference of version 3"' in texts
    assert "The evidence (log e-value) is 9.30, above its threshold of 9.2." in texts
    assert "In the last full window an estimated 37% of the texts differed from the reference." in texts
    assert "passes its threshold about once in 2.7 years." in texts
    assert "false alarms a week" not in texts
    assert re.search(r'loss="(10\.99|11)', texts)
    assert "curl -s http://127.0.0.1:8095/report.json" in texts


def test_window_drift_states_the_false_alarms_of_all_signals_together(tools: Path, params: Params, tmp_path: Path) -> None:
    texts = texts_of(FIRING["EvergreenWindowDrift"], tools, params, tmp_path)
    assert "The statistic of the window is 0.0213, above its threshold of 0.0128." in texts
    assert "a window of any signal passes its threshold about once in 5 months." in texts


@pytest.mark.parametrize(("per_week", "interval"), [("0.00714", "2.7 years"), ("0.05", "5 months"), ("0.8", "1.2 weeks")])
def test_the_time_between_false_alarms_has_a_unit_that_people_know(
    per_week: str, interval: str, tools: Path, params: Params, tmp_path: Path
) -> None:
    case = FIRING["EvergreenDrift"]
    rate = {'evergreen_false_alarms_per_week{signal="input_sketch"}': f"{per_week}x200"}
    assert f"about once in {interval}." in texts_of(case._replace(series=case.series | rate), tools, params, tmp_path)


def test_abstaining_often_states_the_share_and_what_the_version_promised(tools: Path, params: Params, tmp_path: Path) -> None:
    texts = texts_of(FIRING["EvergreenAbstainsOften"], tools, params, tmp_path)
    assert "Of the texts in the last 60 min, 30% got no label. On its test rows it was at most 10%." in texts


def test_a_roll_back_states_what_broke_and_its_evidence(tools: Path, params: Params, tmp_path: Path) -> None:
    texts = texts_of(FIRING["EvergreenReleaseRolledBack"], tools, params, tmp_path)
    assert "Version 4 was rolled back: it answered slowly" in texts
    assert "Evidence (log e-value): 9.2, at its threshold of 6.4." in texts or "9.3, at its threshold of 6.4." in texts


def test_without_a_controller_the_texts_say_so(tools: Path, params: Params, tmp_path: Path) -> None:
    case = FIRING["EvergreenDrift"]
    texts = texts_of(case._replace(series=case.series | {DECISION % "running": "stale"}), tools, params, tmp_path)
    assert "Nothing: no retrain controller has seen this alert." in texts


def test_drift_states_the_last_known_values_when_the_monitor_is_dead(tools: Path, params: Params, tmp_path: Path) -> None:
    dead = {name: values.replace("x200", "x5 stale _x60") for name, values in FACTS.items()}
    dead |= {"evergreen_monitored_version": "3x5 stale _x60", FIRST: "20x5 stale _x60"}
    texts = run_cases(tools, params, tmp_path, Case("dead", "EvergreenDrift", dead, {60: []}), texts=True).stderr
    assert "In the last full window an estimated 37%" in texts


FIRST = 'evergreen_drift_log_e{version="3",signal="input_sketch"}'


def texts_of(case: Case, tools: Path, params: Params, folder: Path) -> str:
    """Return the texts of a firing alert, which promtool prints because the test expects none."""
    minute = next(minute for minute, firing in case.fires.items() if firing)
    facts = {name: values for name, values in FACTS.items() if name not in case.series and case not in MONITORING}
    result = run_cases(tools, params, folder, case._replace(series=case.series | facts, fires={minute: []}), texts=True)
    assert result.returncode == 1
    return result.stdout + result.stderr


def test_every_alert_has_a_runbook(params: Params) -> None:
    text = (ROOT / params.alerts.runbooks).read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert set(sections) == {rule.name for rules in all_rules(params).values() for rule in rules}
    for name, section in sections.items():
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in section, name


def test_alert_names_and_summaries_follow_one_form(params: Params) -> None:
    for rules in all_rules(params).values():
        for rule in rules:
            assert rule.name.startswith("Evergreen")
            assert rule.summary[0].isupper() or rule.summary.startswith("{{")


def test_commands_and_files_named_in_texts_exist(params: Params) -> None:
    texts = [f"{rule.look} {rule.next_step} {rule.description}" for rules in all_rules(params).values() for rule in rules]
    texts.append((ROOT / params.alerts.runbooks).read_text(encoding="utf-8"))
    named_commands = {name for text in texts for name in re.findall(r"\.venv/bin/evergreen (\w+)", text)}
    assert named_commands >= {"status", "rollback"}
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named_commands <= commands | {str(group.name) for group in app.registered_groups}
    files = {name for text in texts for name in re.findall(r"(?<!\S)(?:data|docs)/\S+\.\w+", text)}
    assert {name for name in files if not (ROOT / name).exists()} == set()
