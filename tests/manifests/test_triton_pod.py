"""How Triton is started in a pod, and a real one that is started so."""

from pathlib import Path

import pytest
import requests

from pipeline.errors import ToolError
from pipeline.params import Params
from serving.triton.client import ADMIN_HEADER, ask_grpc, is_ready, load, unload
from serving.triton.server import CACHE_BYTES, RESTRICTED
from tests.manifests.pods_here import started, wait_until
from tests.manifests.rendered import Object, flags, named, workload
from tests.monitoring.alert_rules.test_names import TRITON, exported


def test_triton_is_started_as_its_makers_advise_for_production(objects: list[Object]) -> None:
    triton = workload(objects, "triton")
    given = flags(triton.main)
    del given["--http-max-input-size"]
    (models,) = [mount for mount in triton.main["volumeMounts"] if mount["name"] == "models"]
    assert given.pop("--allow-gpu-metrics") in ("true", "false")
    assert {name: value for name, value in given.items() if not name.endswith("-port")} == {
        "--model-repository": models["mountPath"],
        "--model-control-mode": "explicit",
        "--load-model": "*",
        "--strict-readiness": "true",
        "--exit-on-error": "true",
        "--disable-auto-complete-config": "",
        "--cache-config": f"local,size={CACHE_BYTES}",
        "--exit-timeout-secs": "30",
        "--grpc-max-connection-age": "5000",
        "--allow-client-shm": "false",
        "--allow-sagemaker": "false",
        "--allow-vertex-ai": "false",
    }
    assert models["readOnly"] is True


def test_the_largest_batch_fits_into_a_request_and_little_more_does(objects: list[Object], params: Params) -> None:
    escaped = len(r"\ud83d\ude00")  # the most that JSON makes of one character
    largest = params.package.max_batch_size * params.data.max_text_chars * escaped
    assert largest < int(flags(workload(objects, "triton").main)["--http-max-input-size"]) < 4 * largest


def test_what_is_fetched_is_what_triton_serves(objects: list[Object]) -> None:
    triton = workload(objects, "triton")
    (init,) = triton.pod["initContainers"]
    assert init["command"] == ["python", "-m", "serving.release.fetch_repository"]
    assert flags(init)["--to"] == flags(triton.main)["--model-repository"]
    assert flags(init)["--from"] == "$(EVERGREEN_MODEL_STORE)"
    (variable,) = init["env"]
    reference = variable["valueFrom"]["configMapKeyRef"]
    assert variable["name"] == "EVERGREEN_MODEL_STORE"
    assert reference["key"] in named(objects, "ConfigMap", reference["name"])["data"]


def test_a_real_triton_starts_so_and_serves_all_that_was_fetched(
    rendered: dict[str, list[Object]], repository: Path, params: Params
) -> None:
    here = started(workload(rendered["local"], "triton").main, repository, params.serve)
    try:
        here.wait_ready()
        assert ask_grpc(here.serve, "intent-8", ["where is my parcel?"]).labels == ["it answers"]
        told = requests.get(f"http://{here.serve.host}:{here.serve.metrics_port}/metrics", timeout=10).text
        asked_for = {name: labels for name, labels in TRITON.items() if not name.startswith("nv_gpu_")}  # there is none here
        assert {name: exported(told).get(name) for name in asked_for} == asked_for
        with pytest.raises(ToolError, match="not the one of its administration"):
            unload(here.serve, "intent-7", "not the key")
        unload(here.serve, "intent-7", "the key")
        wait_until(lambda: not is_ready(here.serve, ["intent-7"]), timeout_s=20)
        load(here.serve, "intent-7", "the key")
        assert is_ready(here.serve, ["intent-7", "intent-8"])
    finally:
        here.process.terminate()
        assert here.process.wait(timeout=30) == 0  # the shell became Triton: the signal arrived


@pytest.mark.parametrize("key", ["", "\n"])
def test_without_a_key_triton_does_not_start(
    key: str, rendered: dict[str, list[Object]], repository: Path, params: Params
) -> None:
    here = started(workload(rendered["local"], "triton").main, repository, params.serve, key=key)
    assert here.process.wait(timeout=30) == 1
    assert here.log.read_text() == ""


def test_the_administration_is_restricted_as_on_one_machine(objects: list[Object]) -> None:
    script = workload(objects, "triton").main["command"][2]
    assert f'restricted="{",".join(RESTRICTED)}:{ADMIN_HEADER}=$key"' in script
    assert "--http-restricted-api=" in script
    assert "--grpc-restricted-protocol=" in script
