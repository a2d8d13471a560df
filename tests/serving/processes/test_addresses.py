"""A service that listens elsewhere than params say is found there, by what watches it and by what calls it."""

from pathlib import Path

import pytest

from monitoring.alert_rules.alertmanager import controller_receiver
from monitoring.local.watch import scrape_config
from pipeline.params import Params
from serving.processes.addresses import VARIABLES, Service, base_url, listen_host, reach_host
from serving.serve import gateway_program

HOSTS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "10.1.2.3": "10.1.2.3", "edge.lan": "edge.lan"}  # noqa: S104


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
    jobs = scrape_config(params.model_copy(update={"alerts": alerts}))["scrape_configs"]
    targets = {job["job_name"].removeprefix("evergreen-"): job["static_configs"][0]["targets"][0] for job in jobs}
    assert {name: targets[name].partition(":")[0] for name in VARIABLES} == {
        name: f"10.0.0.{number}" for number, name in enumerate(VARIABLES)
    }
    url = controller_receiver(alerts, tmp_path)["webhook_configs"][0]["url"]
    assert url == f"http://{targets['receiver']}/v1/alerts"


def test_an_ipv6_address_is_in_brackets() -> None:
    assert base_url("::1", 8080) == "http://[::1]:8080"
