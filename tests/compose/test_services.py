"""Each service runs what exists: images, modules, variables, hosts, ports, folders and scripts agree with the code and params."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

from monitoring.local.watch import alertmanager_command, prometheus_command
from pipeline.params import Params
from serving.processes.addresses import VARIABLES
from tests.compose.compose_file import (
    HOME,
    compose,
    environment,
    module,
    mounts,
    network_owner,
    ours,
    services,
    shell_script,
    source_files,
    volumes,
    words,
)
from tests.conftest import ROOT
from tests.manifests.dockerfile import ENTRIES, dockerfile_stages
from tests.manifests.rendered import Object, find_workload, flags

LISTENS = ("gateway", "monitor", "inbox", "console", "receiver", "controller", "flywheel")


def ports(params: Params) -> dict[str, int]:
    """Return the port of each service in params."""
    alerts = params.alerts
    named = ("prometheus", "alertmanager", "inbox", "console", "monitor", "receiver", "controller", "flywheel")
    return {name: getattr(alerts, f"{name}_port") for name in named} | {
        "gateway": params.gateway.port,
        "triton": params.serve.http_port,
        "grafana": 3000,
        "mlflow": 5000,
    }


def test_every_image_of_ours_is_a_stage_of_the_dockerfile_with_the_projects_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    built: dict[str, str] = {}
    for service in services().values():
        if build := service.get("build"):
            assert build["context"] == "."
            built[service["image"]] = build["target"]
    assert built == {f"evergreen-{target}:{version[1]}": target for target in ("triton", "gateway", "monitor", "trainer")}
    assert set(built.values()) <= set(dockerfile_stages())
    assert {service["image"] for service in services().values() if service["image"].startswith("evergreen-")} == set(built)


def test_every_command_is_a_module_that_its_image_contains() -> None:
    copied = {image: set() for image in ("gateway", "monitor")}
    for image in copied:
        stage = dockerfile_stages()[image]
        bases = [stage, *([dockerfile_stages()[stage.base]] if stage.base in copied else [])]
        copied[image] = {line.split()[0] for base in bases for line in base.all("COPY") if not line.startswith("--from")}
    for name, service in ours().items():
        run = module(service)
        if run is None:
            assert words(service)[:2] == ["mlflow", "server"], name
            continue
        spec = importlib.util.find_spec(run)
        assert spec, f"{name} runs {run}"
        main = Path(str(spec.origin)).parent / "__main__.py" if spec.submodule_search_locations else Path(str(spec.origin))
        assert main.is_file(), f"python -m {run}"
        image = service["image"].partition(":")[0].removeprefix("evergreen-")
        assert image == "trainer" or run.partition(".")[0] in copied[image], f"{run} is not in image {image}"
        if image in ENTRIES and name != "configure":
            assert f"{run}.app" in ENTRIES[image], f"the packages of {run} in image {image} are not checked"
    assert "monitoring.local.configure" in ENTRIES["monitor"]


def test_every_variable_of_ours_is_read_by_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in source_files())
    read = set(re.findall(r'"(EVERGREEN_\w+)"', code))
    read |= {f"EVERGREEN_{purpose.upper()}_KEY_FILE" for purpose in re.findall(r'read_key\(\S+, "(\w+)"\)', code)}
    for name in services():
        assert {variable for variable in environment(name) if variable.startswith("EVERGREEN_")} <= read, name


def test_every_host_is_a_service_and_who_listens_listens_for_others() -> None:
    for name in ours():
        for service, variable in VARIABLES.items():
            host = environment(name).get(variable)
            if host is None or (name == service and name in LISTENS and host == "0.0.0.0"):  # noqa: S104 (of a container)
                continue
            same_network = {"monitor": "127.0.0.1"}.get(service) if network_owner(name) == "monitor" else None
            assert host in {network_owner(service), same_network}, (name, variable)
    for service, variable in VARIABLES.items():
        assert service not in LISTENS or environment(service)[variable] == "0.0.0.0", service  # noqa: S104
    assert {environment(name)["EVERGREEN_TRITON_HOST"] for name in ours() if "EVERGREEN_TRITON_HOST" in environment(name)} == {
        "triton"
    }


def test_who_reads_the_database_shares_its_network() -> None:
    assert services()["postgres"]["networks"] == ["database"]
    for name, service in services().items():
        if "state-url" in service.get("secrets", []):
            assert "database" in services()[network_owner(name)]["networks"], name


def test_the_triton_that_setup_starts_itself_is_its_own() -> None:
    assert not {"EVERGREEN_TRITON_HOST", "EVERGREEN_TRITON_KEY_FILE"} & set(environment("setup"))


def test_ports_agree_with_params(params: Params) -> None:
    expected = ports(params)
    for name, service in services().items():
        if name in expected:
            checked = re.search(r"http://127\.0\.0\.1:(\d+)/", " ".join(service["healthcheck"]["test"]))
            assert checked, name
            assert int(checked[1]) == expected[name], name
    published = {
        int(port.split(":")[1]): port.split(":")[2] for service in services().values() for port in service.get("ports", [])
    }
    public = ("gateway", "inbox", "console", "prometheus", "alertmanager", "grafana", "mlflow")
    assert published == {expected[name]: str(expected[name]) for name in public}


def test_every_mount_is_a_folder_that_the_process_uses() -> None:
    assert set(compose()["volumes"]) == {mount["source"] for mount in volumes()}
    made = re.findall(r"for folder in (.*?); do", shell_script(services()["configure"]))[0].split()
    subpaths = {mount["volume"]["subpath"] for mount in volumes() if "volume" in mount}
    assert subpaths == {*made, "alerts"}  # Docker mounts no subpath that does not exist; `configure` writes alerts/
    for name, service in ours().items():
        homes = environment(name).get("EVERGREEN_HOME")
        assert homes is None or (homes == HOME and mounts(service)[HOME]["source"] == "home"), name
        image = service["image"].partition(":")[0].removeprefix("evergreen-")
        if image in ("gateway", "monitor"):
            (folder,) = dockerfile_stages()["gateway"].all("WORKDIR")
            assert mounts(service)[f"{folder}/params.yaml"]["source"] == "./params.yaml", name
    for service in services().values():
        for mount in mounts(service).values():
            assert mount["type"] != "bind" or (ROOT / mount["source"]).exists(), mount["source"]


def test_volumes_begin_as_folders_of_the_user_that_writes_them() -> None:
    trainer, gateway = (" ".join(dockerfile_stages()[name].all("RUN")) for name in ("trainer", "gateway"))
    made = r"install --directory --owner 10001 --group 10001 --mode 0700 (.*?)(;|$)"
    assert {*re.findall(made, trainer)[0][0].split()} == {HOME, "/project", "/mlflow"}
    assert {*re.findall(made, gateway)[0][0].split()} == {HOME}


def test_alerts_start_retrains_and_the_inbox_says_so(rendered: dict[str, list[Object]]) -> None:
    commands = {name: words(service) for name, service in services().items()}
    assert commands["controller"] == ["python", "-m", "monitoring.retrain"]
    assert commands["inbox"] == ["python", "-m", "monitoring.inbox"]
    assert "--on-request" not in str(commands)
    assert "--on-request" not in str(rendered)


def test_prometheus_and_alertmanager_get_the_options_of_make_watch(params: Params) -> None:
    tools = ROOT / ".tools"
    for name, command in (("prometheus", prometheus_command), ("alertmanager", alertmanager_command)):
        (tools / "bin" / name).exists() or pytest.skip("no .tools")
        given = dict(word.split("=", 1) for word in words(services()[name]))
        local = dict(word.split("=", 1) for word in command(tools, Path(f"{HOME}/alerts"), params.alerts)[1:])
        elsewhere = {"--storage.tsdb.path", "--storage.path", "--storage.tsdb.retention.time", "--web.listen-address"}
        assert {key: value for key, value in given.items() if key not in elsewhere} == {
            key: value for key, value in local.items() if key not in elsewhere
        }
        assert given["--web.listen-address"].rpartition(":")[2] == local["--web.listen-address"].rpartition(":")[2]


def test_triton_has_the_options_of_the_cluster_but_takes_its_models_from_swaps(rendered: dict[str, list[Object]]) -> None:
    given = dict(word.partition("=")[::2] for word in words(services()["triton"])[4:])
    cluster = flags(find_workload(rendered["local"], "triton").main)
    differ = {"--model-control-mode", "--strict-readiness", "--exit-on-error"}
    assert {key: value for key, value in given.items() if key not in differ} == {
        key: value for key, value in cluster.items() if key not in differ
    }
    assert given["--model-control-mode"] == "explicit"
    assert mounts(services()["triton"])[given["--model-repository"]]["read_only"] is True


def test_triton_is_closed_by_the_key_that_loader_and_controller_send(tmp_path: Path) -> None:
    key = "k" * 64
    (tmp_path / "key").write_text(f"{key}\n")
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    script = shell_script(services()["triton"]).replace("/run/secrets/triton-key", str(tmp_path / "key"))
    command = ["/bin/sh", "-euc", script, *words(services()["triton"])[3:]]
    done = subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    restricted = f"model-repository,shared-memory,trace,logging:evergreen-admin={key}"
    arguments = done.stdout.splitlines()
    assert f"--http-restricted-api={restricted}" in arguments
    assert f"--grpc-restricted-protocol={restricted}" in arguments
    assert "--model-repository=/models" in arguments
    for name in ("loader", "controller", "cli"):
        assert environment(name)["EVERGREEN_TRITON_KEY_FILE"] == "/run/secrets/triton-key"
    (tmp_path / "key").write_text("short")
    assert subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True).returncode == 1


def test_setup_clones_what_is_committed_and_follows_new_commits(tmp_path: Path) -> None:
    source, project = tmp_path / "source", tmp_path / "project"
    project.mkdir()
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(source)], check=True)

    def commit(name: str) -> None:
        (source / name).write_text(name)
        subprocess.run(["git", "add", name], cwd=source, check=True)
        subprocess.run(["git", *identity, "commit", "--quiet", "-m", name], cwd=source, check=True)

    script = shell_script(services()["setup"]).replace("/source", str(source)).replace("exec python -m evergreen.repro", "ls")
    for name in ("one", "two"):
        commit(name)
        (source / "uncommitted").write_text("")
        done = subprocess.run(["/bin/sh", "-euc", script], cwd=project, env=os.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout.split()
        assert "uncommitted" not in done.stdout
    assert (project / ".venv").readlink() == Path("/usr/local")  # dvc.yaml names .venv/bin/python
