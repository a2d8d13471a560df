"""compose.yaml is valid by the Compose specification, and no service has a weakness that an intruder could use."""

import copy
import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.compose.compose_file import Service, compose, services
from tests.conftest import ROOT

ONCE = {"setup", "cli", "configure"}
WITHOUT_HEALTHCHECK = ONCE | {"loader"}  # nothing waits for it, and it listens nowhere
SCHEMA = json.loads((ROOT / "tests/compose/compose-spec.json").read_text(encoding="utf-8"))


def test_the_file_is_valid_by_the_compose_specification() -> None:
    validator = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    assert [error.message for error in validator.iter_errors(compose())] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [(("services", "triton", "read-only"), True), (("services", "triton", "cap_drop"), "ALL"), (("volume",), {})],
)
def test_a_misspelt_key_would_be_noticed(path: tuple[str, ...], value: Any) -> None:
    tree = copy.deepcopy(compose())
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, SCHEMA)


def weaknesses(service: Service) -> set[str]:
    """Return what an intruder in this service could use."""
    weak = {key for key in ("privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "env_file") if key in service}
    weak |= {"a writable root file system"} if service.get("read_only") is not True else set()
    weak |= {"capabilities"} if service.get("cap_drop") != ["ALL"] else set()
    weak |= {"new privileges"} if "no-new-privileges:true" not in service.get("security_opt", []) else set()
    weak |= (
        {"root"} if not re.fullmatch(r"[1-9]\d*:\d+", service.get("user", "")) and "grafana" not in service["image"] else set()
    )
    weak |= {"the host's network"} if service.get("network_mode", "") == "host" else set()
    weak |= (
        {"a public port"} if any(not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.get("ports", [])) else set()
    )
    binds = [mount for mount in service.get("volumes", []) if mount["type"] == "bind"]
    weak |= {"a writable folder of the host"} if any(not mount.get("read_only") for mount in binds) else set()
    weak |= {"Docker's socket"} if any("docker.sock" in mount["source"] for mount in binds) else set()
    weak |= {"a mutable image"} if not re.search(r":v?\d+(\.\d+)+(-[a-z]+)?$", service["image"]) else set()
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|URL$")
    named = [name for name in service.get("environment", {}) if secret.search(name) and not name.endswith("_FILE")]
    weak |= {"a secret in the environment"} if named else set()
    return weak


def test_no_service_has_a_weakness() -> None:
    assert {name: weak for name, service in services().items() if (weak := weaknesses(service))} == {}


@pytest.mark.parametrize(
    ("changed", "weakness"),
    [
        ({"privileged": True}, "privileged"),
        ({"read_only": False}, "a writable root file system"),
        ({"cap_drop": []}, "capabilities"),
        ({"security_opt": []}, "new privileges"),
        ({"user": "0:0"}, "root"),
        ({"ports": ["8080:8080"]}, "a public port"),
        ({"volumes": [{"type": "bind", "source": ".", "target": "/x"}]}, "a writable folder of the host"),
        ({"image": "evergreen-gateway:latest"}, "a mutable image"),
        ({"environment": {"POSTGRES_PASSWORD": "x"}}, "a secret in the environment"),
    ],
)
def test_each_weakness_would_be_noticed(changed: dict[str, Any], weakness: str) -> None:
    assert weaknesses(services()["gateway"] | changed) == {weakness}


def test_what_runs_for_long_restarts_and_has_a_healthcheck() -> None:
    restarts = {name for name, service in services().items() if service["restart"] == "unless-stopped"}
    assert restarts == set(services()) - ONCE
    assert {name for name, service in services().items() if "healthcheck" not in service} == WITHOUT_HEALTHCHECK


def test_secrets_are_files_outside_git_and_each_service_gets_those_that_it_reads() -> None:
    assert {secret["file"] for secret in compose()["secrets"].values()} == {f"./secrets/{name}" for name in compose()["secrets"]}
    assert "/secrets/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for name, service in services().items():
        read = set(re.findall(r"/run/secrets/([\w-]+)", yaml.safe_dump(service)))
        optional = {"state-url"} if name == "configure" else set()  # it opens no database
        assert read - optional == set(service.get("secrets", [])) - optional, name


def test_every_waited_for_service_can_become_what_is_waited_for() -> None:
    for name, service in services().items():
        for other, waited in service.get("depends_on", {}).items():
            condition = waited["condition"]
            assert (condition == "service_completed_successfully") == (other in ONCE), (name, other)
            assert condition != "service_healthy" or "healthcheck" in services()[other]
