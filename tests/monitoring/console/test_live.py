"""The page Live over HTTP: what it shows from which source, and what it says when a source is away."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from monitoring.charts.lines import PlotLine
from monitoring.console.live import page as live_page
from monitoring.console.live.charts import Frame
from monitoring.console.live.counts import Binned, Coverage
from monitoring.console.live.ranges import find_range
from monitoring.console.live.view import NOT_COUNTED, Stored, draw
from pipeline.params import Params
from tests.monitoring.console.recorded_prometheus import Samples, recorded_prometheus
from tests.monitoring.console.running_console import running_console
from tests.monitoring.console.story import HOSTILE, HOUR, LABELS, NOW, PROMOTED, tell

CHARTS = ("traffic", "latency", "errors", "drift", "accuracy", "labels", "versions")


@pytest.fixture(scope="module")
def url(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a console over the story; no Prometheus answers."""
    home = tmp_path_factory.mktemp("story")
    tell(home, hostile=True)
    with running_console(params, home) as url:
        yield url


def page(url: str, path: str = "/live?range=6h") -> str:
    response = requests.get(f"{url}{path}", timeout=60)
    response.raise_for_status()
    return response.text


def section(text: str, chart: str) -> str:
    """Return the section of a chart."""
    return text[text.index(f'aria-labelledby="title-{chart}"') :].split("</section>")[0]


def cells(text: str, chart: str) -> list[list[str]]:
    """Return the cells of a chart's table, newest first, without the time."""
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', section(text, chart), flags=re.DOTALL)
    return [re.findall(r"<td.*?>(.*?)</td>", row) for row in rows]


def test_without_prometheus_the_charts_show_what_is_stored_and_say_so(url: str) -> None:
    text = page(url)
    assert "Prometheus is away: the charts show what is stored." in text
    assert '<code class="command" tabindex="0">make watch</code>' in text
    sources = {chart: re.findall(r"from (the [a-z ]+)</span>", section(text, chart)) for chart in CHARTS}
    log, database = ["the prediction log"], ["the state database"]
    assert sources == {
        "traffic": log, "latency": log, "errors": [], "drift": database, "accuracy": database, "labels": log, "versions": log,
    }  # fmt: skip
    assert "Only Prometheus knows this, and it has no values for this time" in section(text, "errors")
    assert "<svg" not in section(text, "errors")
    assert "title-abstained" not in text  # a model that never abstains has no such chart


def test_the_tables_hold_the_values_of_the_story(url: str) -> None:
    text = page(url)
    assert cells(text, "traffic")[0] == ["0.1/s"]
    assert cells(text, "versions")[0] == ["0.0%", "100.0%"]  # version 1 has more in all
    meaning = [float(row[0]) for row in cells(text, "drift")]
    assert max(meaning) > 1.3 and meaning[0] < 0.3
    newest = cells(text, "accuracy")
    assert ["90.5 %", "87.5 % to 93 %"] in [row[:2] for row in newest]


@pytest.mark.parametrize(
    "what",
    [
        "EvergreenDrift: retrain started, because accuracy has fallen",
        "EvergreenWindowDrift: no retrain, the alert ended first",
        "retrain 1 made version 2, from",
        "the gate passed the model of retrain 1",
        "version 2 published",
        "version 2 promoted in place of version 1",
        "EvergreenDrift, from",
        "EvergreenQueueFull, from",
    ],
)
def test_alerts_decisions_and_versions_are_on_the_time_axis_with_links(what: str, url: str) -> None:
    lanes = section(page(url), "happened")
    assert re.search(rf'<a href="/live/why\?name=[^"]+" aria-label="{re.escape(what)}', lanes), what
    assert lanes.count(what) >= 2  # and in the table


def test_an_alert_that_still_fires_has_no_end(url: str) -> None:
    lanes = section(page(url), "happened")
    assert re.search(r"EvergreenQueueFull, from [^\"]* until now", lanes)
    assert lanes.count('class="span alert open"') == 1


@pytest.mark.parametrize("key", ["1h", "6h", "1d", "7d", "30d", "90d", "nonsense", "<script>"])
def test_every_range_is_shown_and_linked(key: str, url: str) -> None:
    text = page(url, f"/live?range={requests.utils.quote(key)}")
    assert text.count('href="/live?range=') == 6
    assert text.count('aria-current="true"') == 1
    assert "predictions per second" in text and "<svg" in section(text, "traffic")


def test_the_details_behind_an_alert_and_a_version_are_those_of_why(url: str) -> None:
    drift = page(url, "/live/why?name=evergreendrift")
    assert "started: harm" in drift and "gate, attempt 1: done" in drift
    assert "version" in page(url, "/live/why?name=2")
    assert "give one of these:" in page(url, "/live/why?name=nothing")


def test_the_details_of_a_prediction_begin_with_its_text_and_label(url: str) -> None:
    shown = page(url, f"/live/why?name=%20{NOW - HOUR:.0f}%20")  # as it is pasted
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", shown)
    assert facts[0] == ("text", "text")
    assert facts[1][0] == "label" and facts[1][1].split(" ")[0] in LABELS


def test_a_prediction_is_looked_up_by_a_form(url: str) -> None:
    for path, value in (("/live", ""), ("/live/why", ""), ("/live/why?name=2", "2")):
        form = page(url, path).split('<form class="lookup" action="/live/why"')[1].split("</form>")[0]
        assert f'name="name" value="{value}"' in form
    assert 'class="doubt' not in page(url, "/live/why")  # nothing was asked yet
    assert "from 2 s after the answer until it is deleted" in page(url, "/live/why?name=nothing")
    assert "form-action 'self'" in requests.get(f"{url}/live", timeout=60).headers["content-security-policy"]


def test_nothing_from_outside_is_markup(url: str) -> None:
    for path in ("/live?range=6h", f"/live/why?name={requests.utils.quote(HOSTILE)}"):
        text = page(url, path)
        assert "<img" not in text and "\u202e" not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_a_home_without_anything_says_so_and_draws_nothing(params: Params, tmp_path: Path) -> None:
    with running_console(params, tmp_path) as url:
        text = page(url, "/live")
    assert "<svg" not in text
    assert text.count("No predictions in this time.") == 4
    assert "No alert, no decision, no release and no new version in this time." in text


def test_a_fault_of_a_page_is_a_page_that_says_where_to_look(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr(live_page, "read_live", fail)
    with running_console(params, tmp_path) as url:
        answer = requests.get(f"{url}/live", timeout=20)
        assert answer.status_code == 500
        assert "This page failed" in answer.text and "console.log" in answer.text and 'href="/model"' in answer.text
        assert "<img" not in answer.text and answer.headers["content-security-policy"]
        assert requests.get(f"{url}/healthz", timeout=20).status_code == 200


def test_a_log_that_is_not_counted_yet_is_no_empty_log(params: Params) -> None:
    axis, none = find_range("1h").axis(NOW), PlotLine("", [], 0)
    stored = Stored(None, None, {}, none, none, [], [])
    coverage = Coverage(NOW, is_complete=False, fault="")
    charts = {chart.id: chart for chart in draw(params, Frame(axis, []), defaultdict(list), Binned(30), coverage, stored)}
    assert {charts[name].missing for name in ("traffic", "latency", "labels", "versions")} == {NOT_COUNTED}


def test_a_database_that_cannot_be_read_leaves_the_rest(params: Params, tmp_path: Path) -> None:
    tell(tmp_path)
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with running_console(params, tmp_path) as url:
        text = page(url)
    assert "The state database is away" in text and ".venv/bin/evergreen doctor" in text
    assert "<svg" in section(text, "traffic") and "<svg" in section(text, "labels")


def gauge(value: float, start: float, end: float, step_s: float = 60.0) -> list[tuple[float, float]]:
    return [(start + number * step_s, value) for number in range(int((end - start) / step_s) + 1)]


def test_an_alert_that_fired_when_prometheus_fell_silent_does_not_fire_until_now(params: Params, tmp_path: Path) -> None:
    message = {
        "fingerprint": "f", "starts_at": NOW - 3 * HOUR, "ends_at": None, "labels": {"alertname": "EvergreenDrift"},
        "annotations": {}, "heard_at": NOW - 3 * HOUR, "repeated_at": NOW - 3 * HOUR, "evidence": None, "evidence_problem": "",
    }  # fmt: skip
    switch = {"evaluated_at": NOW - 2 * HOUR, "unbroken_since": NOW - 5 * HOUR}
    (tmp_path / "inbox").mkdir()
    path = tmp_path / "inbox" / "messages.json"
    with running_console(params, tmp_path) as url:
        path.write_text(json.dumps({"messages": [message], "switch": switch}))
        silent = section(page(url), "happened")
        path.write_text(json.dumps({"messages": [message], "switch": switch | {"evaluated_at": NOW - 20}}))
        reporting = section(page(url), "happened")
    assert "EvergreenDrift (no news since), from" in silent and "until now" not in silent
    assert "until now" in reporting and "no news" not in reporting


def counter(rate: float, start: float, end: float, step_s: float = 60.0) -> list[tuple[float, float]]:
    return [(at, rate * (at - start)) for at, _ in gauge(0, start, end, step_s)]


def samples(start: float) -> Samples:
    """Return what a day of scrapes might hold."""
    drift = 'signal="input_sketch"'
    version = 'job="evergreen-monitor",version="1"'
    requests_total = 'evergreen_requests_total{job="evergreen-gateway",route="/v1/predict",code='
    bucket = 'evergreen_prediction_seconds_bucket{version="1",role="champion",le='
    return {
        'evergreen_predictions_total{version="1",role="champion",cached="no"}': counter(3.0, start, NOW),
        'evergreen_predictions_total{version="2",role="challenger",cached="no"}': counter(1.0, start, NOW),
        'evergreen_predictions_total{version="2",role="shadow",cached="no"}': counter(50.0, start, NOW),
        'evergreen_abstentions_total{version="1",role="champion"}': counter(0.6, start, NOW),
        'evergreen_abstentions_total{version="2",role="shadow"}': counter(50.0, start, NOW),
        'evergreen_abstention_expected_ratio{version="1"}': gauge(0.125, start, NOW),
        f'{requests_total}"200"}}': counter(4.0, start, NOW),
        f'{requests_total}"503"}}': counter(1.0, NOW - HOUR, NOW),
        f'{bucket}"0.01"}}': counter(1.0, start, NOW),
        f'{bucket}"0.02"}}': counter(2.0, start, NOW),
        f'{bucket}"+Inf"}}': counter(2.0, start, NOW),
        f"evergreen_drift_log_e{{{version},{drift}}}": gauge(4.6, start, NOW),
        f'evergreen_drift_log_e_threshold{{job="evergreen-monitor",{drift}}}': gauge(9.2, start, NOW),
        **{
            f'evergreen_accuracy_estimate_ratio{{{version},bound="{bound}"}}': gauge(value, start, NOW)
            for bound, value in (("estimate", 0.91), ("lower", 0.88), ("upper", 0.94))
        },
        **{
            f'evergreen_accuracy_labelled_ratio{{{version},bound="{bound}"}}': gauge(value, start, NOW - 2 * HOUR)
            for bound, value in (("estimate", 0.8), ("lower", 0.7), ("upper", 0.9))
        },
        "evergreen_champion_version": gauge(1, start, PROMOTED) + gauge(2, PROMOTED + 60, NOW),
        'ALERTS{alertname="EvergreenSlow",alertstate="firing",severity="critical"}': gauge(1, NOW - 2 * HOUR, NOW - HOUR),
        'ALERTS{alertname="EvergreenWatchdog",alertstate="firing",severity="none"}': gauge(1, start, NOW),
    }


@pytest.mark.usefixtures("tools")
def test_what_prometheus_recorded_is_shown_as_it_was(params: Params, tools: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with (
        recorded_prometheus(tools, tmp_path / "prometheus", samples(NOW - 7 * HOUR)) as port,
        running_console(params, tmp_path / "home", prometheus_port=port) as url,
    ):
        text = page(url)
    assert "is away" not in text
    assert cells(text, "traffic")[5] == ["4/s"]  # without the shadow's copies
    assert cells(text, "latency")[5] == ["10 ms", "19.8 ms"]
    assert cells(text, "errors")[5] == ["20 %", "0 %"]
    assert cells(text, "errors")[-5] == ["0 %", "0 %"]  # no request has ever failed: no series, and no gap
    assert cells(text, "abstained")[5] == ["20 %"]
    assert "at most expected of version 1" in section(text, "abstained")
    assert cells(text, "drift")[5] == ["0.5"]
    assert cells(text, "accuracy")[5] == ["91 %", "88 % to 94 %", "", ""]
    labelled = sum(row[2] == "80 %" for row in cells(text, "accuracy"))
    assert abs(labelled - 4 * HOUR / 180) <= 2  # a value that is no longer exported is not drawn on
    assert cells(text, "versions")[1] == ["75.0%", "25.0%"]
    happened = section(text, "happened")
    assert "EvergreenSlow, from" in happened and "EvergreenWatchdog" not in happened
    assert "version 2 promoted in place of version 1" in happened
    for chart in ("traffic", "latency", "errors", "drift", "accuracy", "versions"):
        assert "from Prometheus</span>" in section(text, chart), chart


@pytest.mark.usefixtures("tools")
def test_a_prometheus_that_is_younger_than_what_is_stored_gives_way(params: Params, tools: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    tell(tmp_path / "home")
    with (
        recorded_prometheus(tools, tmp_path / "prometheus", samples(NOW - HOUR)) as port,
        running_console(params, tmp_path / "home", prometheus_port=port) as url,
    ):
        text, last_hour = page(url), page(url, "/live?range=1h")
    assert "from the prediction log</span>" in section(text, "traffic")
    assert "from the state database</span>" in section(text, "drift")
    assert "from Prometheus</span>" in section(text, "errors")  # nobody else knows
    assert "from Prometheus</span>" in section(last_hour, "traffic")
