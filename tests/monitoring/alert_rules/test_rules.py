"""The rules, by promtool: each alert fires, does not fire, ends, and what missing data does to it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen.cli import app
from monitoring.alert_rules.render import all_rules, groups, rule_file
from monitoring.local.tools import find
from pipeline.params import Params
from tests.conftest import ROOT
from tests.monitoring.alert_rules.cases import CASES, WATCHERS, Case

pytestmark = pytest.mark.usefixtures("tools")


def promtool(tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(find(tools, "promtool")), *arguments], capture_output=True, text=True)


def test_promtool_takes_the_rules(tools: Path, params: Params, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rule_file(params))
    done = promtool(tools, "check", "rules", "--lint-fatal", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(map(len, all_rules(params).values()))} rules found" in done.stdout


BY_ALERT = {alert: [case for case in CASES if case.alert == alert] for alert in dict.fromkeys(case.alert for case in CASES)}


@pytest.mark.parametrize("alert", BY_ALERT)
def test_an_alert_fires_when_it_has_to_and_not_before(alert: str, tools: Path, params: Params, tmp_path: Path) -> None:
    done = outcome(tools, params, tmp_path, *BY_ALERT[alert])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_expectation_is_noticed(tools: Path, params: Params, tmp_path: Path) -> None:
    case = CASES[0]
    assert outcome(tools, params, tmp_path, case._replace(fires={4: case.fires[5]})).returncode == 1


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(params: Params) -> None:
    names = {rule.name for rules in all_rules(params).values() for rule in rules}
    assert {case.alert for case in CASES if any(case.fires.values())} == names
    assert {case.alert for case in CASES if not all(case.fires.values())} == names - {"EvergreenWatchdog"}


def outcome(tools: Path, params: Params, folder: Path, *cases: Case, texts: bool = False) -> subprocess.CompletedProcess[str]:
    """`promtool test rules` of cases of one alert; texts are compared to the letter, so most do without."""
    alert = cases[0].alert
    hour = params.alerts.model_copy(update={"bridge_s": 3600, "window_patience_s": 3600})
    rules = named(groups(params.model_copy(update={"alerts": hour})), alert)
    tests = [written_out(case, [rule["labels"] for rule in rules]) for case in cases]
    for rule in rules:
        rule["annotations"] = rule["annotations"] if texts else {}
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": rules}]}))
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}))
    return promtool(tools, "test", "rules", str(folder / "test.yaml"))


def written_out(case: Case, labels: list[dict[str, str]]) -> dict[str, Any]:
    """One case in promtool's form."""
    expected = [
        {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": [{"exp_labels": full(one, labels)} for one in firing]}
        for minute, firing in case.fires.items()
    ]
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"interval": "1m", "input_series": series, "alert_rule_test": expected}


def named(written: list[dict[str, Any]], alert: str) -> list[dict[str, Any]]:
    return [rule for group in written for rule in group["rules"] if rule["alert"] == alert]


def full(own: dict[str, str], labels: list[dict[str, str]]) -> dict[str, str]:
    """A case's labels with the rule's own; where several rules have the name, the case says which by its severity."""
    (rule,) = [one for one in labels if own.get("severity", one["severity"]) == one["severity"]]
    return rule | own


FACTS = {
    'evergreen_false_alarms_per_week{signal="input_sketch"}': "0.02x200",
    'evergreen_drift_effect_size{version="3",signal="input_sketch"}': "0.41x200",
    'evergreen_drift_estimated_share{version="3"}': "0.37x200",
    'evergreen_accuracy_estimate_ratio{version="3",bound="estimate"}': "0.83x200",
    'evergreen_accuracy_estimate_ratio{version="3",bound="lower"}': "0.8x200",
    'evergreen_accuracy_estimate_ratio{version="3",bound="upper"}': "0.86x200",
    'evergreen_accuracy_labelled_ratio{version="3",bound="estimate"}': "0.85x200",
    'evergreen_accuracy_reference_ratio{version="3"}': "0.94x200",
    'evergreen_drift_log_e_threshold{signal="input_sketch"}': "9.2x200",
    'evergreen_drift_statistic_threshold{version="3",signal="input_sketch"}': "0.0128x200",
    'evergreen_false_alarms_per_week{signal="window"}': "0.05x200",
}
FIRING = {case.alert: case for case in reversed(CASES) if any(case.fires.values())}


@pytest.mark.parametrize("alert", FIRING)
def test_what_an_alert_says_is_whole(alert: str, tools: Path, params: Params, tmp_path: Path) -> None:
    said = texts_of(FIRING[alert], tools, params, tmp_path)
    assert "error expanding" not in said
    assert "unknown" not in said
    for annotation in ("summary", "description", "next", "look", "runbook_url"):
        assert f'{annotation}="' in said


def test_drift_says_by_how_much_and_what_it_costs(tools: Path, params: Params, tmp_path: Path) -> None:
    said = texts_of(FIRING["EvergreenDrift"], tools, params, tmp_path)
    assert "The log e-value of input_sketch is 9.30, over its threshold 9.2, which promises 0.02 false alarms a week." in said
    assert "the effect size was 0.41, and by estimate 37% of the traffic was unlike the reference." in said
    assert re.search(r'loss="(10\.99|11)', said)
    assert "curl -s http://127.0.0.1:8095/report.json" in said


def test_drift_of_a_window_says_what_all_signals_together_promise(tools: Path, params: Params, tmp_path: Path) -> None:
    said = texts_of(FIRING["EvergreenWindowDrift"], tools, params, tmp_path)
    assert "The statistic of input_sketch is 0.0213, over its threshold 0.0128; over all signals that promises 0.05" in said


def test_drift_still_says_what_was_known_last_when_the_monitor_is_dead(tools: Path, params: Params, tmp_path: Path) -> None:
    dead = {name: values.replace("x200", "x5 stale _x60") for name, values in FACTS.items()}
    dead |= {"evergreen_monitored_version": "3x5 stale _x60", FIRST: "20x5 stale _x60"}
    said = outcome(tools, params, tmp_path, Case("dead", "EvergreenDrift", dead, {60: []}), texts=True).stderr
    assert "the effect size was 0.41, and by estimate 37%" in said


FIRST = 'evergreen_drift_log_e{version="3",signal="input_sketch"}'


def texts_of(case: Case, tools: Path, params: Params, folder: Path) -> str:
    """promtool reports what it got where nothing is expected: the alert with its texts."""
    minute = next(minute for minute, firing in case.fires.items() if firing)
    facts = {name: values for name, values in FACTS.items() if name not in case.series and case not in WATCHERS}
    done = outcome(tools, params, folder, case._replace(series=case.series | facts, fires={minute: []}), texts=True)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_every_alert_leads_to_its_runbook(params: Params) -> None:
    text = (ROOT / params.alerts.runbooks).read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert set(sections) == {rule.name for rules in all_rules(params).values() for rule in rules}
    for name, section in sections.items():
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in section, name


def test_no_other_names_than_ours_fire(params: Params) -> None:
    for rules in all_rules(params).values():
        for rule in rules:
            assert rule.name.startswith("Evergreen")
            assert rule.summary[0].isupper() or rule.summary.startswith("{{")


def test_commands_that_are_named_are_there(params: Params) -> None:
    texts = [f"{rule.look} {rule.then} {rule.description}" for rules in all_rules(params).values() for rule in rules]
    texts.append((ROOT / params.alerts.runbooks).read_text(encoding="utf-8"))
    named_commands = {name for text in texts for name in re.findall(r"\.venv/bin/evergreen (\w+)", text)}
    assert named_commands >= {"status", "rollback"}
    assert named_commands <= {command.callback.__name__ for command in app.registered_commands if command.callback}
    files = {name for text in texts for name in re.findall(r"(?<!\S)(?:data|docs)/\S+\.\w+", text)}
    assert {name for name in files if not (ROOT / name).exists()} == set()
