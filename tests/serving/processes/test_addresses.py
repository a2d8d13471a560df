"""A service that listens elsewhere than params say is found there, by what watches it and by what calls it."""

from pathlib import Path

import pytest

from monitoring.alert_rules.alertmanager import controller_receiver, inbox_page, inbox_url, message_templates
from monitoring.local.configure import scrape_config
from monitoring.pages.navigation import service_links
from pipeline.errors import InputError
from pipeline.params import Params
from serving.gateway_client import http_sender
from serving.loadtest.run import resolve
from serving.loadtest.targets import gateway_target
from serving.processes.addresses import VARIABLES, Service, base_url, listen_host, reach_host, split_url
from serving.serve import gateway_program

HOSTS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "10.1.2.3": "10.1.2.3", "edge.lan": "edge.lan"}  # noqa: S104

UNSCRAPED = ("prometheus", "mlflow")


@pytest.mark.parametrize("given", HOSTS)
@pytest.mark.parametrize("service", VARIABLES)
def test_a_service_is_reached_where_it_listens(monkeypatch: pytest.MonkeyPatch, service: Service, given: str) -> None:
    monkeypatch.setenv(VARIABLES[service], given)
    assert listen_host(service, "127.0.0.1") == (given or "127.0.0.1")
    assert reach_host(service, "127.0.0.1") == HOSTS[given]


@pytest.mark.parametrize("given", HOSTS)
def test_the_supervisor_probes_the_gateway_where_it_listens(
    monkeypatch: pytest.MonkeyPatch, params: Params, tmp_path: Path, given: str
) -> None:
    monkeypatch.setenv("EVERGREEN_GATEWAY_HOST", given)
    assert gateway_program(params, tmp_path).host == HOSTS[given]


def test_prometheus_and_alertmanager_use_the_hosts_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, params: Params, tmp_path: Path
) -> None:
    alerts = params.alerts.model_copy(update={"controller_url": "here"})
    for number, variable in enumerate(VARIABLES.values()):
        monkeypatch.setenv(variable, f"10.0.0.{number}")
    tree = scrape_config(params.model_copy(update={"alerts": alerts}))
    jobs = tree["scrape_configs"]
    targets = {job["job_name"].removeprefix("evergreen-"): job["static_configs"][0]["targets"][0] for job in jobs}
    targets["alertmanager"] = tree["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"][0]
    assert {name: targets[name].partition(":")[0] for name in VARIABLES if name not in UNSCRAPED} == {
        name: f"10.0.0.{number}" for number, name in enumerate(VARIABLES) if name not in UNSCRAPED
    }
    url = controller_receiver(alerts, tmp_path)["webhook_configs"][0]["url"]
    assert url == f"http://{targets['receiver']}/v1/alerts"
    assert inbox_url(alerts) == f"http://{targets['inbox']}/alerts"


def test_links_for_people_lead_where_they_reach_the_machine(
    monkeypatch: pytest.MonkeyPatch, params: Params, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVERGREEN_INBOX_HOST", "monitor")
    assert inbox_page(params.alerts) == "http://monitor:8090/"
    monkeypatch.setenv("EVERGREEN_LINKS_HOST", "ml.example.org")
    assert inbox_page(params.alerts) == "http://ml.example.org:8090/"
    assert inbox_page(params.alerts) in message_templates(params.alerts)
    assert {link.url.split(":")[1] for link in service_links(params, tmp_path)} == {"//ml.example.org"}


def test_an_ipv6_address_is_in_brackets() -> None:
    assert base_url("::1", 8080) == "http://[::1]:8080"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://[::1", "http://x:99999", "http://x:port", "http://x:0", "x:80"])
def test_an_address_that_no_request_can_use_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="not an http:// or https:// address"):
        http_sender(url, {})
    with pytest.raises(InputError, match="not an http:// address"):
        resolve(url)
    with pytest.raises(InputError, match="not an http:// address"):
        gateway_target(url, units=0, headers={})


def test_an_address_is_split() -> None:
    parts = split_url("http://user@[::1]:8080/a?b", "http")
    assert (parts.hostname, parts.port, parts.path) == ("::1", 8080, "/a")
