"""What Prometheus, Alertmanager and Grafana read: rendered with the hosts of compose.yaml, and loaded by the real tools."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring.channels.settings import Channel, put_channel
from monitoring.local.configure import write_config
from monitoring.local.tools import find_tool
from pipeline.params import Params
from tests.compose.compose_file import HOME, environment, mounts, services
from tests.compose.test_services import ports
from tests.conftest import ROOT
from tests.monitoring.conftest import tools  # noqa: F401 (a fixture)

OWNERS = {"inbox": "monitor"}


@pytest.fixture
def alerts_folder(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the files as `configure` writes them, with a channel of each kind."""
    for name, value in environment("configure").items():
        monkeypatch.setenv(name, value)
    for kind in ("slack", "teams", "webhook"):
        put_channel(tmp_path, Channel(name=kind, kind=kind, shown="example.org"), "https://example.org/x")
    write_config(params, tmp_path)
    return tmp_path


def test_the_real_tools_load_what_the_containers_read(alerts_folder: Path, tools: Path) -> None:  # noqa: F811
    for command in (["promtool", "check", "config", "prometheus.yml"], ["amtool", "check-config", "alertmanager.yml"]):
        done = subprocess.run(
            [str(find_tool(tools, command[0])), *command[1:]], cwd=alerts_folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_every_address_is_a_service_at_its_port(alerts_folder: Path, params: Params) -> None:
    known = {f"{OWNERS.get(name, name)}:{port}" for name, port in ports(params).items()}
    prometheus = yaml.safe_load((alerts_folder / "prometheus.yml").read_text())
    targets = [target for job in prometheus["scrape_configs"] for target in job["static_configs"][0]["targets"]]
    assert len(targets) == 8
    assert set(targets) - {f"triton:{params.serve.metrics_port}"} <= known
    assert prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alertmanager:9093"]
    manager = yaml.safe_load((alerts_folder / "alertmanager.yml").read_text())
    urls = [webhook["url"] for receiver in manager["receivers"] for webhook in receiver.get("webhook_configs", [])]
    assert urls
    assert {url.split("/")[2] for url in urls} <= known


def test_alertmanagers_container_finds_every_file_that_its_configuration_names(params: Params, tmp_path: Path) -> None:
    target = f"{HOME}/alerts"
    assert mounts(services()["alertmanager"])[target]["volume"]["subpath"] == "alerts"
    assert mounts(services()["prometheus"])[target]["volume"]["subpath"] == "alerts"
    write_config(params, tmp_path)
    manager = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    (controller,) = [receiver for receiver in manager["receivers"] if receiver["name"] == "controller"]
    token = controller["webhook_configs"][0]["http_config"]["authorization"]["credentials_file"]
    assert Path(token).parent == tmp_path  # the folder that `configure` writes, which is `target` there


def test_grafana_finds_prometheus_and_the_dashboard(params: Params) -> None:
    grafana = mounts(services()["grafana"])

    def source(target: str) -> Path:
        return ROOT / grafana[target]["source"]

    datasources = yaml.safe_load(source("/etc/grafana/provisioning/datasources/evergreen.yaml").read_text())
    (datasource,) = datasources["datasources"]
    assert (datasource["type"], datasource["isDefault"]) == ("prometheus", True)
    assert datasource["url"] == f"http://prometheus:{params.alerts.prometheus_port}"
    providers = yaml.safe_load(source("/etc/grafana/provisioning/dashboards/evergreen.yaml").read_text())
    folder = providers["providers"][0]["options"]["path"]
    home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == folder
    dashboard = json.loads(source(home).read_text())
    (variable,) = dashboard["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", datasource["type"])  # the default one of this type
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel}
    assert used == {f"${{{variable['name']}}}"}
